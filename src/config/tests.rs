//! Tests of the whole way from layers to a configuration.

mod stock;
