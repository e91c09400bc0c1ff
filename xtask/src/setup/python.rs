//! Packages for Python that the tests drive, in environments of their own.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::report::Outcome;
use crate::{paths, proc};

const LIMIT: Duration = Duration::from_secs(600);

/// An environment, its packages by the names of the registry, and the modules that they bring.
struct Environment {
    name: &'static str,
    packages: &'static [&'static str],
    modules: &'static str,
}

/// A client of Kubernetes, and clients and servers of what the layer 7 proxy reads.
const ALL: [Environment; 2] = [
    Environment {
        name: "python-kubernetes",
        packages: &["kubernetes"],
        modules: "kubernetes",
    },
    Environment {
        name: "python-protocols",
        packages: &["confluent-kafka", "kafka-python", "h2", "grpcio"],
        modules: "confluent_kafka, kafka, h2, grpc",
    },
];

/// Makes the environments that are not there.
pub fn packages() -> Result<Outcome> {
    let mut done = Vec::new();
    for environment in &ALL {
        match environment.ensure()? {
            Outcome::Present(_) => {}
            Outcome::Done(what) => done.push(what),
            missing @ Outcome::Missing(_) => return Ok(missing),
        }
    }
    Ok(match done.as_slice() {
        [] => Outcome::Present(format!("{} environments", ALL.len())),
        _ => Outcome::Done(format!("installed {}", done.join(", "))),
    })
}

impl Environment {
    fn ensure(&self) -> Result<Outcome> {
        let home = paths::cache()?.join("tools").join(self.name);
        let works = || {
            let mut check = Command::new(home.join("bin/python"));
            check.args(["-c", &format!("import {}", self.modules)]);
            home.join("bin/python").exists() && proc::succeeds(&mut check, LIMIT)
        };
        let packages = self.packages.join(", ");
        if works() {
            return Ok(Outcome::Present(packages));
        }
        if paths::which("python3").is_none() {
            return Ok(Outcome::Missing(
                "python3; tests with it are skipped".to_owned(),
            ));
        }
        let mut environment = Command::new("python3");
        environment.args(["-m", "venv", "--clear"]).arg(&home);
        if proc::logged("python-venv", &mut environment, LIMIT).is_err() {
            let why = "python3 makes no environments (on Debian: apt-get install python3-venv); tests with it are skipped";
            return Ok(Outcome::Missing(why.to_owned()));
        }
        let mut install = Command::new(home.join("bin/python"));
        install.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ]);
        install.args(self.packages);
        proc::logged("pip", &mut install, LIMIT)?;
        if !works() {
            bail!("{packages}: installed for Python, but cannot be imported");
        }
        Ok(Outcome::Done(packages))
    }
}
