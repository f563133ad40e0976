mod acks;
mod consume;
mod life;
mod model;
mod publish;
mod support;
mod table;
mod transactions;
