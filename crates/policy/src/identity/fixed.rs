//! Identities that the settings give to labels (`fixed-identity-mapping`).
use super::Scope;
use model::Labels;
use std::collections::BTreeMap;

/// Key of the label by which pods ask for a fixed identity.
pub const FIXED_LABEL: &str = "k8s:io.cilium.fixed-identity";

/// Names with fixed numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FixedIdentities(BTreeMap<String, u32>);

/// A mapping that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "fixed-identity-mapping: {text:?}: {what}; accepted: number=name separated by \",\" or \";\", with each number from 128 to 255 and each name once"
)]
pub struct FixedError {
    /// The part that is wrong.
    pub text: String,
    /// What is wrong with it.
    pub what: &'static str,
}

impl FixedIdentities {
    /// Reads `128=name,129=other`.
    ///
    /// # Errors
    /// The first part that is wrong.
    pub fn parse(text: &str) -> Result<Self, FixedError> {
        let mut all = BTreeMap::new();
        let parts = text.split([',', ';']).map(str::trim);
        for part in parts.filter(|part| !part.is_empty()) {
            let wrong = |what| FixedError {
                text: part.to_owned(),
                what,
            };
            let (number, name) = part
                .split_once('=')
                .ok_or_else(|| wrong("no number=name"))?;
            let number: u32 = number
                .trim()
                .parse()
                .ok()
                .filter(|number| Scope::Fixed.range().contains(number))
                .ok_or_else(|| wrong("the number is none from 128 to 255"))?;
            if name.is_empty() {
                return Err(wrong("the name is empty"));
            }
            if all.values().any(|known| *known == number) {
                return Err(wrong("the number stands there twice"));
            }
            if all.insert(name.to_owned(), number).is_some() {
                return Err(wrong("the name stands there twice"));
            }
        }
        Ok(Self(all))
    }

    /// The number of labels that ask for one by [`FIXED_LABEL`].
    #[must_use]
    pub fn of(&self, labels: &Labels) -> Option<u32> {
        self.0.get(labels.get(FIXED_LABEL)?).copied()
    }

    /// What is left of labels that ask for a fixed number: policies see nothing else of such a pod. None if they do not.
    #[must_use]
    pub fn labels(&self, labels: &Labels) -> Option<Labels> {
        self.of(labels)?;
        Some(Self::label(labels.get(FIXED_LABEL)?))
    }

    /// Every number and the label behind it.
    pub fn iter(&self) -> impl Iterator<Item = (u32, Labels)> + '_ {
        self.0.iter().map(|(name, id)| (*id, Self::label(name)))
    }

    fn label(name: &str) -> Labels {
        [(FIXED_LABEL.to_owned(), name.to_owned())]
            .into_iter()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_numbers() {
        let fixed = FixedIdentities::parse("128=store, 129=dns").unwrap();
        let labels = |text: &str| [text.to_owned()].into_iter().collect::<Labels>();
        assert_eq!(
            fixed.of(&labels("k8s:io.cilium.fixed-identity=dns")),
            Some(129)
        );
        assert_eq!(fixed.of(&labels("k8s:io.cilium.fixed-identity=no")), None);
        assert_eq!(fixed.of(&labels("k8s:app=dns")), None);
        let more: Labels = ["k8s:app=x", "k8s:io.cilium.fixed-identity=dns"]
            .map(str::to_owned)
            .into_iter()
            .collect();
        let left = fixed.labels(&more).unwrap();
        assert_eq!(left.to_string(), "k8s:io.cilium.fixed-identity=dns");
        assert!(fixed.iter().any(|(id, labels)| id == 129 && labels == left));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for text in [
            "128",
            "127=a",
            "256=a",
            "x=a",
            "128=",
            "128=a,128=b",
            "128=a;129=a",
        ] {
            let error = FixedIdentities::parse(text).unwrap_err();
            assert!(
                error.to_string().contains("accepted: number=name"),
                "{error}"
            );
        }
    }
}
