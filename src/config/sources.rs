//! Where a setting comes from: [`Sources`], which holds the order of precedence (flag, environment, file, default).

use std::{io, path::Path};

use super::{
    file::{self, File},
    flags::Flags,
    settings::{self, SettingSpec},
    value::{ConfigError, Origin, Setting},
};

/// What the process was started with, besides its arguments.
#[derive(Clone, Copy)]
pub struct Environment<'a> {
    /// Reads an environment variable.
    pub env: &'a dyn Fn(&str) -> Option<std::ffi::OsString>,
    /// Reads a small text file.
    pub read: &'a dyn Fn(&Path) -> io::Result<String>,
}

/// Command line, environment and file.
pub(super) struct Sources<'a> {
    environment: Environment<'a>,
    flags: Flags,
    pub(super) file: File,
    /// The path of `--config`.
    path: String,
}

impl<'a> Sources<'a> {
    /// Reads the file of `--config`, where one is named.
    pub(super) fn read(flags: Flags, environment: Environment<'a>) -> Result<Self, ConfigError> {
        let path = flags.get(settings::CONFIG.flag).and_then(|given| given.first()).cloned();
        let file = match &path {
            Some(path) => {
                let text = (environment.read)(Path::new(path)).map_err(|error| {
                    ConfigError(format!("{} {path:?} cannot be read: {error}", settings::CONFIG.flag))
                })?;
                file::read(path, &text)?
            }
            None => File::default(),
        };
        Ok(Self { environment, flags, file, path: path.unwrap_or_default() })
    }

    /// The text of a small file of the machine; empty where it cannot be read.
    pub(super) fn text_of(&self, path: &str) -> String {
        (self.environment.read)(Path::new(path)).unwrap_or_default()
    }

    /// A value from a flag.
    pub(super) fn flag(&self, name: &SettingSpec) -> Option<Setting> {
        let text = self.flags.get(name.flag)?.first()?;
        Some(Setting::new(text, Origin::Flag(name.flag)))
    }

    /// A value from a flag, else from the environment. An empty variable counts as not set, as it did in the old images.
    pub(super) fn given(&self, name: &SettingSpec) -> Result<Option<Setting>, ConfigError> {
        let flag = self.flag(name);
        if flag.is_some() || name.env.is_empty() {
            return Ok(flag);
        }
        match (self.environment.env)(name.env).filter(|text| !text.is_empty()) {
            None => Ok(None),
            Some(text) => {
                let given = Setting::new(text.to_string_lossy(), Origin::Env(name.env));
                if text.to_str().is_none() { Err(given.reject("must be UTF-8")) } else { Ok(Some(given)) }
            }
        }
    }

    /// The values of a setting that may have several: all flags, else the variable, else the list of the file.
    pub(super) fn listed(&self, name: &SettingSpec) -> Result<Vec<Setting>, ConfigError> {
        if let Some(texts) = self.flags.get(name.flag) {
            return Ok(texts.iter().map(|text| Setting::new(text, Origin::Flag(name.flag))).collect());
        }
        if let Some(given) = self.given(name)? {
            return Ok(vec![given]);
        }
        let texts = self.file.lists.get(name.key).into_iter().flatten().enumerate();
        let origin = |index| self.in_file(format!("{}[{index}]", name.key));
        Ok(texts.map(|(index, text)| Setting::new(text, origin(index))).collect())
    }

    /// The origin of a key of the file.
    pub(super) fn in_file(&self, key: impl Into<String>) -> Origin {
        Origin::File { path: self.path.clone(), key: key.into() }
    }

    /// A value from the first source that has it; `None` where none has and there is no default.
    pub(super) fn find(&self, name: &SettingSpec) -> Result<Option<Setting>, ConfigError> {
        let file = || Some(Setting::new(self.file.texts.get(name.key)?, self.in_file(name.key)));
        let default = || Setting::new(name.default, Origin::Default(name.flag));
        Ok(self.given(name)?.or_else(file).or_else(|| (!name.default.is_empty()).then(default)))
    }

    /// The same for a setting that has a default.
    pub(super) fn pick(&self, name: &SettingSpec) -> Result<Setting, ConfigError> {
        Ok(self.find(name)?.unwrap_or_else(|| Setting::new("", Origin::Default(name.flag))))
    }
}
