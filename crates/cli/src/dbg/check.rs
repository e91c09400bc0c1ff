//! `check`.
use anyhow::Result;
use api::{CheckReport, Finding, Severity};
use clap::Args;

use crate::error::Findings;
use crate::output::OutputArgs;
use crate::table::Table;
use crate::target::{Agent, show};

#[derive(Debug, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    output: OutputArgs,
}

pub fn run(agents: &mut [Agent], args: &CheckArgs) -> Result<()> {
    let clean = std::cell::Cell::new(true);
    let ask = |agent: &mut Agent| {
        let report = agent.client.check()?;
        clean.set(clean.get() && report.is_clean());
        Ok(report)
    };
    show(agents, &args.output, ask, text)?;
    if clean.get() {
        Ok(())
    } else {
        Err(Findings.into())
    }
}

fn text(report: &CheckReport) -> String {
    let checked: Vec<String> = report
        .checked
        .iter()
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    let checked = if checked.is_empty() {
        "nothing".into()
    } else {
        checked.join(", ")
    };
    if report.findings.is_empty() {
        return format!("OK: compared {checked}; everything fits\n");
    }
    let mut table = Table::new(&["SEVERITY", "RULE", "OBJECT", "FINDING"]);
    for finding in &report.findings {
        table.row(&[
            severity(finding.severity),
            &finding.rule,
            &finding.object,
            &message(finding),
        ]);
    }
    format!(
        "{}\ncompared {checked}; {} findings\n",
        table.render(),
        report.findings.len()
    )
}

fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Note => "note",
        Severity::Leak => "leak",
        Severity::Error => "error",
    }
}

fn message(finding: &Finding) -> String {
    if finding.hint.is_empty() {
        finding.message.clone()
    } else {
        format!("{} ({})", finding.message, finding.hint)
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn reports() {
        let mut report = CheckReport {
            checked: [("devices".into(), 9), ("maps".into(), 11)].into(),
            findings: Vec::new(),
        };
        assert_eq!(
            text(&report),
            "OK: compared 9 devices, 11 maps; everything fits\n"
        );
        report.findings.push(Finding {
            severity: Severity::Leak,
            rule: "device-without-endpoint".into(),
            object: "lxcab12".into(),
            message: "no endpoint uses it".into(),
            hint: "remove it with `ip link del lxcab12`".into(),
        });
        expect![[r#"
            SEVERITY   RULE                      OBJECT    FINDING
            leak       device-without-endpoint   lxcab12   no endpoint uses it (remove it with `ip link del lxcab12`)

            compared 9 devices, 11 maps; 1 findings
        "#]].assert_eq(&text(&report));
    }
}
