//! Tests of the whole way from layers to a configuration.

mod destinations;
mod docs;
mod layers;
mod reload;
mod rules;
mod stock;

use super::{ConfigSource, Loaded, load};

/// A profile in a folder of its own.
struct Scratch {
    folder: tempfile::TempDir,
}

impl Scratch {
    fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let scratch = Self { folder };
        scratch.write(text);
        scratch
    }

    fn path(&self) -> String {
        self.folder.path().join("p.toml").display().to_string()
    }

    fn write(&self, text: &str) {
        std::fs::write(self.path(), text).unwrap();
    }

    fn source(&self) -> ConfigSource {
        ConfigSource::profile(&self.path())
    }

    fn load(&self) -> Result<Loaded, String> {
        self.explain(load(&self.source()))
    }

    /// Errors as they are printed, the profile's path as `P`.
    fn explain<T>(&self, result: Result<T, super::ConfigErrors>) -> Result<T, String> {
        result.map_err(|errors| errors.to_string().replace(&self.path(), "P"))
    }
}

/// What loading this profile text says is wrong.
fn refused(text: &str) -> String {
    Scratch::new(text).load().unwrap_err()
}
