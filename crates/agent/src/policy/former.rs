//! The file of former versions: of policies that are in force although their objects say something else by now, which is refused.
//! A restart finds the refused version alone, and would take what is enforced out of force.
use super::inputs::Former;
use crate::state;
use runtime::settings::Settings;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Where the file is; none where nothing is taken over from before a restart.
#[must_use]
pub fn path(settings: &Settings) -> Option<PathBuf> {
    let directory = Path::new(&settings.state_dir).join(crate::boot::STATE);
    settings
        .restore
        .then(|| directory.join("former-policies.json"))
}

/// What the file holds. One that cannot be read is as good as none, which the log says.
#[must_use]
pub fn read(path: &Path) -> Vec<Former> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => return unread(path, &error),
    };
    serde_json::from_slice(&text).unwrap_or_else(|error| unread(path, &error))
}

fn unread(path: &Path, error: &dyn std::error::Error) -> Vec<Former> {
    tracing::error!(
        path = %path.display(), error = %error,
        "former versions of policies whose objects are refused now cannot be read: nothing of these policies is in force"
    );
    Vec::new()
}

/// Makes the file hold these versions.
pub fn write(path: &Path, former: &[Former]) {
    let text = serde_json::to_vec(former).map_err(io::Error::other);
    if let Err(error) = text.and_then(|text| state::replace(path, &text)) {
        tracing::error!(
            path = %path.display(), %error,
            "versions of policies that are in force although their objects are refused now cannot be kept: they end with this agent"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::PolicyObject;

    #[test]
    fn what_is_written_is_read_and_what_is_damaged_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("former.json");
        assert!(read(&path).is_empty());
        let former = [Former {
            table: "network-policies".to_owned(),
            object: PolicyObject {
                key: "shop/web".into(),
                kind: "NetworkPolicy".into(),
                json: r#"{"spec":{"podSelector":{}}}"#.into(),
            },
        }];
        write(&path, &former);
        assert_eq!(read(&path), former);
        fs::write(&path, "[{").unwrap();
        assert!(read(&path).is_empty());
    }
}
