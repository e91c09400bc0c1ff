//! What settings are: a struct, and a description of every key for help, docs and messages.
use super::SettingsError;

/// One key: what help, docs and messages say of it.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Name, as in `--name`.
    pub name: &'static str,
    /// What it does.
    pub help: &'static str,
    /// What it accepts.
    pub accepted: &'static str,
    /// True if the flag may stand without a value (`--name` is `--name=true`).
    pub is_switch: bool,
    pub(super) default: fn() -> String,
}

impl Key {
    /// The default as a text.
    #[must_use]
    pub fn default(&self) -> String {
        (self.default)()
    }

    /// The environment variable that sets it, as `CILIUM_ROUTING_MODE`.
    #[must_use]
    pub fn env(&self) -> String {
        format!(
            "CILIUM_{}",
            self.name.replace('-', "_").to_ascii_uppercase()
        )
    }
}

/// The settings of one role.
pub trait Keyed: Clone + Default + 'static {
    /// The role, as in `hypha agent`.
    const ROLE: &str;

    /// Every key, in the order in which help shows them.
    fn keys() -> &'static [Key];

    /// Sets `key` from a text found at `place`.
    ///
    /// # Errors
    /// The key is not known, or the text means nothing to it.
    fn assign(&mut self, key: &str, text: &str, place: &str) -> Result<(), SettingsError>;

    /// The value of `key` as a text.
    fn value(&self, key: &str) -> Option<String>;

    /// Whether the values fit together.
    ///
    /// # Errors
    /// They do not.
    fn check(&self) -> Result<(), SettingsError>;
}

/// What a key accepts: what its shape says, or else its type.
macro_rules! accepted {
    ($type:ty) => {
        <$type as $crate::settings::Value>::ACCEPTED
    };
    ($type:ty, $shape:path) => {
        $shape.accepted
    };
}
pub(super) use accepted;

/// Makes a struct with a field per key, and its [`Keyed`]. A [`Shape`](super::shape::Shape) in brackets after the type narrows what is
/// accepted.
macro_rules! settings {
    (
        $(#[$about:meta])* $name:ident of $role:literal, checked by $check:path;
        $($(#[doc = $help:literal])+ $key:literal $field:ident: $type:ty $([$shape:path])? = $default:expr;)+
    ) => {
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $($(#[doc = $help])+ pub $field: $type,)+
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)+ }
            }
        }

        impl $name {
            /// Every key, in the order in which help shows them.
            pub const KEYS: &[$crate::settings::Key] = &[
                $($crate::settings::Key {
                    name: $key,
                    help: concat!($($help),+).trim_ascii(),
                    accepted: $crate::settings::define::accepted!($type $(, $shape)?),
                    is_switch: <$type as $crate::settings::Value>::IS_SWITCH,
                    default: || { let value: $type = $default; $crate::settings::Value::show(&value) },
                },)+
            ];

            /// Sets `key` from a text found at `place`.
            ///
            /// # Errors
            /// The key is not known, or the text means nothing to it.
            pub fn set(&mut self, key: &str, text: &str, place: &str) -> Result<(), $crate::settings::SettingsError> {
                use $crate::settings::{SettingsError, Value};
                match key {
                    $($key => match <$type as Value>::parse(text)$(.filter(|_| ($shape.fits)(text)))? {
                        Some(value) => self.$field = value,
                        None => {
                            let accepted = $crate::settings::define::accepted!($type $(, $shape)?);
                            return Err(SettingsError::value(key, text, place, accepted));
                        }
                    },)+
                    _ => return Err(SettingsError::unknown::<Self>(key, place)),
                }
                Ok(())
            }

            /// The value of `key` as a text.
            #[must_use]
            pub fn get(&self, key: &str) -> Option<String> {
                match key {
                    $($key => Some($crate::settings::Value::show(&self.$field)),)+
                    _ => None,
                }
            }
        }

        impl $crate::settings::Keyed for $name {
            const ROLE: &str = $role;

            fn keys() -> &'static [$crate::settings::Key] {
                Self::KEYS
            }

            fn assign(&mut self, key: &str, text: &str, place: &str) -> Result<(), $crate::settings::SettingsError> {
                self.set(key, text, place)
            }

            fn value(&self, key: &str) -> Option<String> {
                self.get(key)
            }

            fn check(&self) -> Result<(), $crate::settings::SettingsError> {
                $check(self)
            }
        }
    };
}
pub(super) use settings;
