//! `hypha lab image`: what stands for which image.

use anyhow::{Context, bail};
use clap::{Args, Subcommand};

use super::Lab;
use super::table::render;
use crate::kubelet::images::{self, Added, Image};
use crate::supervisor::IMAGES;

/// What to do with images.
#[derive(Debug, Args)]
pub(super) struct ImageArgs {
    #[command(subcommand)]
    command: ImageCommand,
}

#[derive(Debug, Subcommand)]
enum ImageCommand {
    /// Show the images that the lab knows.
    List,
    /// Let a name stand for a program of this machine, or for another image: `add ghcr.io/me/app=/usr/bin/app --flag`.
    Add {
        /// NAME=PROGRAM or NAME=IMAGE.
        #[arg(value_parser = assignment, value_name = "NAME=PROGRAM")]
        image: (String, String),
        /// Arguments of the program.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Forget a name that was added.
    Remove {
        /// The name.
        image: String,
    },
}

fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, what)) if !name.is_empty() && !what.is_empty() => {
            Ok((images::plain_name(name).to_owned(), what.to_owned()))
        }
        _ => Err(format!("{text:?} is not of the form NAME=PROGRAM")),
    }
}

pub(super) fn run(lab: &Lab, args: ImageArgs) -> anyhow::Result<()> {
    let file = lab.dir.file(IMAGES);
    let mut added = images::added(&file)?;
    match args.command {
        ImageCommand::List => return list(&added),
        ImageCommand::Add {
            image: (name, what),
            args,
        } => {
            let words: Vec<String> = std::iter::once(what).chain(args).collect();
            added.insert(name, images::described(&words));
        }
        ImageCommand::Remove { image } => {
            if added.remove(images::plain_name(&image)).is_none() {
                bail!("{image:?} was not added to this lab");
            }
        }
    }
    let text = serde_json::to_vec_pretty(&added)?;
    let beside = file.with_extension("new");
    std::fs::write(&beside, text)
        .and_then(|()| std::fs::rename(&beside, &file))
        .with_context(|| format!("cannot write {}", file.display()))
}

fn what(image: &Image) -> String {
    match image.server {
        Some(server) => {
            let name = serde_json::to_value(server).unwrap_or_default();
            format!("built-in server {}", name.as_str().unwrap_or_default())
        }
        None => [image.entrypoint.as_slice(), &image.cmd].concat().join(" "),
    }
}

fn list(added: &Added) -> anyhow::Result<()> {
    let host = [
        images::HOST.to_owned(),
        "`command` out of this machine's files".to_owned(),
    ];
    let own = added.iter().map(|(name, image)| (name.as_str(), image));
    let known = images::built_in();
    let known = known
        .iter()
        .flat_map(|i| i.names.iter().map(move |n| (n.as_str(), i)));
    let rows = own
        .chain(known)
        .map(|(name, image)| vec![name.to_owned(), what(image)]);
    let rows: Vec<Vec<String>> = std::iter::once(host.to_vec()).chain(rows).collect();
    print!("{}", render(&["IMAGE", "RUNS"], &rows));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments() {
        assert_eq!(
            assignment("docker.io/me/x:1=/bin/x"),
            Ok(("me/x".into(), "/bin/x".into()))
        );
        assert!(assignment("x").is_err() && assignment("=x").is_err() && assignment("x=").is_err());
    }
}
