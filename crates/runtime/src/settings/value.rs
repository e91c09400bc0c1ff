//! Texts to values: what each type of setting accepts, and how it is shown.
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::{collections::BTreeMap, time::Duration};

/// A type that a setting can have.
pub trait Value: Sized {
    /// What is accepted, to end the sentence "expected …".
    const ACCEPTED: &str;
    /// True if the flag may stand without a value.
    const IS_SWITCH: bool = false;

    /// The value that `text` means.
    fn parse(text: &str) -> Option<Self>;

    /// The text that [`Value::parse`] reads back as this value.
    fn show(&self) -> String;
}

impl Value for bool {
    const ACCEPTED: &str = "true or false";
    const IS_SWITCH: bool = true;

    fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Some(true),
            "false" | "0" | "no" | "off" => Some(false),
            _ => None,
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for String {
    const ACCEPTED: &str = "a text";

    fn parse(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }

    fn show(&self) -> String {
        self.clone()
    }
}

macro_rules! number {
    ($type:ty, $accepted:literal) => {
        impl Value for $type {
            const ACCEPTED: &str = $accepted;

            fn parse(text: &str) -> Option<Self> {
                text.parse().ok()
            }

            fn show(&self) -> String {
                self.to_string()
            }
        }
    };
}

number!(u8, "a number from 0 to 255");
number!(u16, "a number from 0 to 65535");
number!(u32, "a number from 0 to 4294967295");

/// A share of something.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio(pub f64);

impl Value for Ratio {
    const ACCEPTED: &str = "a number from 0 to 1, as 0.0025";

    fn parse(text: &str) -> Option<Self> {
        text.parse()
            .ok()
            .filter(|ratio| (0.0..=1.0).contains(ratio))
            .map(Self)
    }

    fn show(&self) -> String {
        self.0.to_string()
    }
}

macro_rules! optional_net {
    ($type:ty, $accepted:literal) => {
        impl Value for Option<$type> {
            const ACCEPTED: &str = $accepted;

            fn parse(text: &str) -> Option<Self> {
                if text.is_empty() {
                    Some(None)
                } else {
                    text.parse().ok().map(Some)
                }
            }

            fn show(&self) -> String {
                self.map(|net| net.to_string()).unwrap_or_default()
            }
        }
    };
}

optional_net!(Ipv4Net, "an IPv4 range as 10.0.0.0/8, or nothing");
optional_net!(Ipv6Net, "an IPv6 range as fd00::/32, or nothing");

impl Value for Vec<String> {
    const ACCEPTED: &str = "names with commas or blanks between them";

    fn parse(text: &str) -> Option<Self> {
        Some(
            text.split([',', ' ', '\n'])
                .filter(|part| !part.is_empty())
                .map(str::to_owned)
                .collect(),
        )
    }

    fn show(&self) -> String {
        self.join(",")
    }
}

impl Value for Vec<IpNet> {
    const ACCEPTED: &str = "ranges as 10.0.0.0/8 with commas or blanks between them";

    fn parse(text: &str) -> Option<Self> {
        text.split([',', ' ', '\n'])
            .filter(|part| !part.is_empty())
            .map(|part| part.parse().ok())
            .collect()
    }

    fn show(&self) -> String {
        let texts: Vec<String> = self.iter().map(ToString::to_string).collect();
        texts.join(",")
    }
}

impl Value for BTreeMap<String, String> {
    const ACCEPTED: &str = "pairs as key=value with commas between them";

    fn parse(text: &str) -> Option<Self> {
        let parts = text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty());
        parts
            .map(|part| {
                part.split_once('=')
                    .map(|(k, v)| (k.trim().to_owned(), v.trim().to_owned()))
            })
            .collect()
    }

    fn show(&self) -> String {
        self.iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect::<Vec<_>>()
            .join(",")
    }
}

impl Value for Duration {
    const ACCEPTED: &str = "a time as 500ms, 5s, 1m30s or 2h (0 is zero)";

    fn parse(text: &str) -> Option<Self> {
        if text == "0" {
            return Some(Self::ZERO);
        }
        let mut rest = text;
        let mut sum = Self::ZERO;
        while !rest.is_empty() {
            let digits = rest
                .find(|c: char| !c.is_ascii_digit())
                .filter(|at| *at > 0)?;
            let (number, tail) = rest.split_at(digits);
            let unit_end = tail
                .find(|c: char| c.is_ascii_digit())
                .unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit_end);
            sum = sum.checked_add(span(number.parse().ok()?, unit)?)?;
            rest = tail;
        }
        (!text.is_empty()).then_some(sum)
    }

    fn show(&self) -> String {
        let (seconds, millis) = (self.as_secs(), self.subsec_millis());
        match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
            (0, 0, 0) if millis > 0 => format!("{millis}ms"),
            (0, 0, s) => format!("{s}s"),
            (0, m, s) => format!("{m}m{s}s"),
            (h, m, s) => format!("{h}h{m}m{s}s"),
        }
    }
}

fn span(number: u64, unit: &str) -> Option<Duration> {
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(3600).map(Duration::from_secs),
        _ => None,
    }
}

/// Ports of services on nodes, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

impl Value for PortRange {
    const ACCEPTED: &str = "two ports as 30000,32767, the first not above the second";

    fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.split_once(',')?;
        let range = Self {
            first: first.trim().parse().ok()?,
            last: last.trim().parse().ok()?,
        };
        (range.first <= range.last && range.first > 0).then_some(range)
    }

    fn show(&self) -> String {
        format!("{},{}", self.first, self.last)
    }
}

/// Makes an enum out of the words that a setting accepts.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $accepted:literal { $($(#[$vdoc:meta])* $variant:ident = $word:literal $(| $alias:literal)*),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$vdoc])* $variant,)+
        }

        impl $crate::settings::Value for $name {
            const ACCEPTED: &str = $accepted;

            fn parse(text: &str) -> Option<Self> {
                let is = |words: &[&str]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
                $(if is(&[$word $(, $alias)*]) {
                    return Some(Self::$variant);
                })+
                None
            }

            fn show(&self) -> String {
                match self {
                    $(Self::$variant => $word.to_owned(),)+
                }
            }
        }
    };
}
pub(super) use words;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_known_in_any_case() {
        words! {
            /// Two words.
            Answer, "no or notNow" {
                /// As it is.
                No = "no" | "never",
                /// With a capital within.
                NotNow = "notNow",
            }
        }
        for (text, expected) in [
            ("NO", Some(Answer::No)),
            ("Never", Some(Answer::No)),
            ("notNow", Some(Answer::NotNow)),
            ("notnow", Some(Answer::NotNow)),
            ("not", None),
        ] {
            assert_eq!(Answer::parse(text), expected, "{text}");
        }
        assert_eq!(Answer::NotNow.show(), "notNow");
    }

    #[test]
    fn durations_parse_and_print() {
        for (text, seconds) in [
            ("5s", 5.0),
            ("1m30s", 90.0),
            ("2h13m20s", 8000.0),
            ("500ms", 0.5),
            ("0", 0.0),
        ] {
            assert_eq!(
                Duration::parse(text).unwrap().as_secs_f64(),
                seconds,
                "{text}"
            );
        }
        for bad in ["", "5", "s", "5x", "-5s", "5s5", "1.5s"] {
            assert_eq!(Duration::parse(bad), None, "{bad}");
        }
        assert_eq!(Duration::from_secs(8000).show(), "2h13m20s");
    }

    #[test]
    fn ranges_lists_and_maps() {
        assert_eq!(
            PortRange::parse("30000,32767"),
            Some(PortRange {
                first: 30000,
                last: 32767
            })
        );
        assert_eq!(PortRange::parse("2,1"), None);
        assert_eq!(
            Vec::<String>::parse("eth0, eth1").unwrap(),
            ["eth0", "eth1"]
        );
        assert_eq!(
            BTreeMap::parse("level=debug,format=json").unwrap().show(),
            "format=json,level=debug"
        );
        assert_eq!(BTreeMap::parse("level"), None);
        assert_eq!(Option::<Ipv4Net>::parse(""), Some(None));
        assert_eq!(Option::<Ipv4Net>::parse("10.0.0.0/33"), None);
    }
}
