//! `policy why`.
use std::fmt::Write as _;

use ::policy::explain::{self, Miss, Request, Side, Why};
use ::policy::reference::{Decision, Model, Packet, RuleSource};
use ::policy::rule::Direction;
use abi::proxy::KAFKA_REQUESTS;
use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::cluster::World;
use super::name::{self, Named};
use super::place::{self, Place};
use super::{files, flows, manifest, traffic};
use crate::error::{Findings, Usage, one_line};
use crate::kube::{ClusterArgs, block_on};
use crate::output::OutputArgs;

/// Lines of a rule that are quoted.
const QUOTED: usize = 14;

#[derive(Debug, Args)]
pub struct WhyArgs {
    /// Who sends: NAMESPACE/POD, an address or range, node/NAME, labels, or an entity
    #[arg(value_name = "SRC")]
    source: String,
    /// Who receives; a name outside the cluster, too, as www.example.org
    #[arg(value_name = "DST")]
    destination: String,
    /// 80/TCP, 53/UDP, 9/SCTP, the name of a port, ICMP; without it all traffic is told
    #[arg(value_name = "PORT/PROTO")]
    traffic: Option<String>,
    /// Ask about an HTTP request; on 80/TCP if no other traffic is given
    #[arg(long, num_args = 2, value_names = ["METHOD", "PATH"], conflicts_with_all = ["kafka", "dns", "sni"])]
    http: Vec<String>,
    /// Ask about a Kafka request, as fetch; on 9092/TCP if no other traffic is given
    #[arg(long, num_args = 2, value_names = ["REQUEST", "TOPIC"], conflicts_with_all = ["dns", "sni"])]
    kafka: Vec<String>,
    /// Ask about a DNS question; by 53/UDP if no other traffic is given
    #[arg(long, value_name = "NAME", conflicts_with = "sni")]
    dns: Option<String>,
    /// Ask about TLS to a server of this name; on 443/TCP if no other traffic is given
    #[arg(long, value_name = "NAME")]
    sni: Option<String>,
    /// As if the policies of these files were applied
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    files: Vec<String>,
    #[command(flatten)]
    output: OutputArgs,
}

/// The answer, as it is printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    source: String,
    source_detail: String,
    destination: String,
    destination_detail: String,
    answers: Vec<Answer>,
    notes: Vec<String>,
}

/// Traffic with one answer.
#[derive(Debug, PartialEq, Serialize)]
struct Answer {
    traffic: Vec<String>,
    /// allowed, or denied
    verdict: &'static str,
    /// True where it is denied, but passes: policy only watches those who deny it.
    audited: bool,
    egress: Option<SideReport>,
    ingress: Option<SideReport>,
}

#[derive(Debug, PartialEq, Serialize)]
struct SideReport {
    verdict: &'static str,
    /// rule, no-rule, not-enforced, or localhost
    reason: &'static str,
    rules: Vec<RuleReport>,
    /// Where it passes by way of the proxy: what may be asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    via: Option<String>,
    /// What becomes of the request that was asked about.
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<String>,
    /// Rules that nearly allow it.
    near: Vec<RuleReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    needed: Option<String>,
}

#[derive(Debug, PartialEq, Serialize)]
struct RuleReport {
    kind: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    namespace: String,
    name: String,
    path: String,
    action: &'static str,
    /// `FILE:LINE`, where it comes from a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<String>,
    /// In what it falls short: traffic, or peer.
    #[serde(skip_serializing_if = "Option::is_none")]
    miss: Option<&'static str>,
    /// The rule, as YAML.
    text: String,
}

pub fn run(cluster: &ClusterArgs, args: &WhyArgs) -> Result<()> {
    let documents = files::read(&args.files)?;
    let mut world = block_on(World::read(cluster))?;
    manifest::apply(&documents, &mut world)?;
    if let Some((node, name)) = named(&world, args) {
        let known = block_on(name::ask(cluster, &node, &name));
        world.names = Some(known.map_err(|error| one_line(&error)));
    }
    let report = answer(&world, args)?;
    args.output.print(&report, text)?;
    match report
        .answers
        .iter()
        .any(|answer| answer.verdict == "allowed")
    {
        true => Ok(()),
        false => Err(Findings.into()),
    }
}

/// The name that is asked about, and the node whose agent knows its addresses.
fn named(world: &World, args: &WhyArgs) -> Option<(String, String)> {
    let source = Place::parse(&args.source, world).ok()?;
    match Place::parse(&args.destination, world).ok()? {
        Place::Name(name) => Some((source.node()?.to_owned(), name.text)),
        _ => None,
    }
}

pub(super) fn answer(world: &World, args: &WhyArgs) -> Result<Report> {
    let wrong = |what: &'static str| move |text: String| Usage(format!("{what}: {text}"));
    let source = Place::parse(&args.source, world).map_err(wrong("SRC"))?;
    let destination = Place::parse(&args.destination, world).map_err(wrong("DST"))?;
    if let Place::Name(_) = source {
        return Err(Usage(format!(
            "SRC: {} is no endpoint: names are whom endpoints connect to",
            args.source
        ))
        .into());
    }
    if source.node().is_none()
        && destination.node().is_none()
        && !is_pod(&source)
        && !is_pod(&destination)
    {
        return Err(Usage(format!(
            "neither {} nor {} is an endpoint: policy has no say in what they send each other; accepted: {}",
            args.source,
            args.destination,
            place::ACCEPTED
        ))
        .into());
    }
    let ipv4 = source.may_be_ipv4() && destination.may_be_ipv4();
    let ports = destination.seen_from(source.node(), world).ports().clone();
    let request = request(args)?;
    let usual = request.as_ref().map(|request| match request {
        Request::Http { .. } => "80/TCP",
        Request::Kafka { .. } => "9092/TCP",
        Request::Dns(_) => "53/UDP",
        Request::ServerName(_) => "443/TCP",
    });
    let packet = args.traffic.as_deref().or(usual);
    let packet = packet.map(|text| traffic::parse(text, ipv4, &ports));
    let packet = packet.transpose().map_err(wrong("PORT/PROTO"))?;
    let ask = |destination: &Place<'_>| {
        let asker = Asker {
            world,
            source: &source,
            destination,
            request: request.as_ref(),
        };
        match packet {
            Some(packet) => vec![asker.answer(vec![traffic::name(packet)], &asker.ask(packet))],
            None => asker.all(&traffic::pieces(&world.policies, &ports, ipv4)),
        }
    };
    let answers = match &destination {
        Place::Name(name) => of_all(&name.ends(&source, world), ask),
        one => ask(one),
    };
    let mut notes = notes(world, &[&source, &destination]);
    if let Place::Name(name) = &destination {
        notes.extend(of_name(name, &source, world));
    }
    Ok(Report {
        source: source.name(),
        source_detail: source.detail(),
        destination: destination.name(),
        destination_detail: destination.detail(),
        answers,
        notes,
    })
}

/// The answers for several ends: once, if they are the same for all of them.
fn of_all(ends: &[Place<'_>], ask: impl Fn(&Place<'_>) -> Vec<Answer>) -> Vec<Answer> {
    let mut all: Vec<Vec<Answer>> = ends.iter().map(&ask).collect();
    if all.windows(2).all(|pair| pair[0] == pair[1]) {
        return all.pop().unwrap_or_default();
    }
    for (end, answers) in ends.iter().zip(&mut all) {
        let to = match end {
            Place::Name(Named {
                address: Some(address),
                ..
            }) => address.to_string(),
            other => other.name(),
        };
        for answer in answers {
            let traffic = answer.traffic.join(", ");
            answer.traffic = vec![format!("{traffic} to {to}")];
        }
    }
    all.into_iter().flatten().collect()
}

/// What is to be known of a name, where the source may not connect to everybody.
fn of_name(name: &Named, source: &Place<'_>, world: &World) -> Vec<String> {
    let model = Model {
        settings: &world.settings,
        policies: &world.policies,
        groups: &world.groups,
        services: &world.services,
    };
    let view = source.seen_from(source.node(), world);
    match model.is_default_deny(Direction::Egress, &view.end()) {
        true => name.notes(source, world),
        false => Vec::new(),
    }
}

/// The request that is asked about.
fn request(args: &WhyArgs) -> Result<Option<Request>> {
    if let [method, path] = args.http.as_slice() {
        return Ok(Some(Request::Http {
            method: method.clone(),
            path: path.clone(),
            host: None,
        }));
    }
    if let [request, topic] = args.kafka.as_slice() {
        let request = request.to_ascii_lowercase();
        if !KAFKA_REQUESTS.contains(&request.as_str()) {
            let accepted = KAFKA_REQUESTS.join(", ");
            let what = format!("--kafka: {request:?} is no request; accepted: {accepted}");
            return Err(Usage(what).into());
        }
        let topic = topic.clone();
        return Ok(Some(Request::Kafka { request, topic }));
    }
    let dns = args.dns.clone().map(Request::Dns);
    Ok(dns.or_else(|| args.sni.clone().map(Request::ServerName)))
}

fn is_pod(place: &Place<'_>) -> bool {
    matches!(place, Place::Pod(_) | Place::Labels(_))
}

/// What makes an answer less than certain.
fn notes(world: &World, places: &[&Place<'_>]) -> Vec<String> {
    let mut notes = Vec::new();
    let files = &world.node_files;
    if !files.is_empty() {
        notes.push(format!(
            "nodes may have policies of their own in {files}, which are not in this answer; `hypha dbg --node NODE policy get` lists those in force there, and -f FILE takes one in"
        ));
    }
    for (name, refused) in &world.refused {
        notes.push(format!(
            "{name} is refused, and not in this answer; nodes that accepted a version before it go on enforcing that one: {refused}"
        ));
    }
    for place in places {
        let Place::Outside(range) = place else {
            continue;
        };
        let mut parts: Vec<String> = super::diff::prefixes(world)
            .into_iter()
            .filter(|prefix| range.contains(prefix) && prefix != range)
            .map(|prefix| prefix.to_string())
            .collect();
        parts.dedup();
        if !parts.is_empty() {
            notes.push(format!(
                "answered for {}; rules name parts of {range} that may differ: {}",
                range.addr(),
                parts.join(", ")
            ));
        }
    }
    notes
}

struct Asker<'a> {
    world: &'a World,
    source: &'a Place<'a>,
    destination: &'a Place<'a>,
    request: Option<&'a Request>,
}

impl Asker<'_> {
    /// What becomes of a packet.
    fn ask(&self, packet: Packet) -> Why {
        flows::ask(self.world, self.source, self.destination, packet)
    }

    /// All traffic, with what has the same answer together.
    fn all(&self, pieces: &[traffic::Piece]) -> Vec<Answer> {
        type Decisions = [Option<Decision>; 2];
        let mut groups: Vec<(Decisions, Why, Vec<&traffic::Piece>)> = Vec::new();
        for piece in pieces {
            let why = self.ask(piece.packet());
            let decisions = [&why.egress, &why.ingress]
                .map(|side| side.as_ref().map(|side| side.decision.clone()));
            match groups.iter_mut().find(|(known, _, _)| *known == decisions) {
                Some((_, _, traffic)) => traffic.push(piece),
                None => groups.push((decisions, why, vec![piece])),
            }
        }
        let several = groups.len() > 1;
        // What holds for protocols that no rule names is the rest; it comes last.
        let is_rest =
            |traffic: &[&traffic::Piece]| pieces.last().is_some_and(|last| traffic.contains(&last));
        groups.sort_by_key(|(_, _, traffic)| is_rest(traffic));
        groups
            .iter()
            .map(|(_, why, traffic)| {
                let names = match (several, is_rest(traffic)) {
                    (false, _) => vec!["all traffic".to_owned()],
                    (true, true) => vec!["everything else".to_owned()],
                    (true, false) => traffic::names(traffic),
                };
                let mut answer = self.answer(names, why);
                // Which rule nearly fits differs from port to port.
                for side in [&mut answer.egress, &mut answer.ingress]
                    .into_iter()
                    .flatten()
                {
                    side.near.clear();
                    side.needed = None;
                }
                answer
            })
            .collect()
    }

    fn answer(&self, traffic: Vec<String>, why: &Why) -> Answer {
        let sides = [(&why.egress, self.source), (&why.ingress, self.destination)];
        let audited = sides.iter().all(|(side, end)| {
            let passes = side.as_ref().is_none_or(|side| self.passes(side));
            passes || end.is_audited(self.world)
        });
        let mut both = [&why.egress, &why.ingress].into_iter().flatten();
        let passes = both.all(|side| self.passes(side));
        Answer {
            traffic,
            verdict: word(passes),
            audited: audited && !passes,
            egress: why.egress.as_ref().map(|side| self.side(side)),
            ingress: why.ingress.as_ref().map(|side| self.side(side)),
        }
    }

    /// What becomes of the request, if one is asked about and its connection passes.
    fn asked(&self, side: &Side) -> Option<explain::Answer> {
        explain::ask(&side.decision, self.request?)
    }

    fn passes(&self, side: &Side) -> bool {
        side.decision.passes() && self.asked(side).is_none_or(|answer| answer.passes())
    }

    fn side(&self, side: &Side) -> SideReport {
        let (reason, rules) = match &side.decision {
            Decision::Localhost => ("localhost", &[][..]),
            Decision::NotEnforced => ("not-enforced", &[][..]),
            Decision::NotAllowed => ("no-rule", &[][..]),
            Decision::Allowed(rules) | Decision::Denied(rules) => ("rule", rules.as_slice()),
            Decision::AllowedVia(via) => ("rule", via.sources.as_slice()),
        };
        let via = match &side.decision {
            Decision::AllowedVia(via) => Some(via.to_string()),
            _ => None,
        };
        let request = self.request.zip(self.asked(side));
        let near = side.near.iter().map(|near| {
            let miss = match near.miss {
                Miss::Traffic => "traffic",
                Miss::Peer => "peer",
            };
            self.rule(&near.source, Some(miss))
        });
        SideReport {
            verdict: word(side.decision.passes()),
            reason,
            rules: rules.iter().map(|rule| self.rule(rule, None)).collect(),
            via,
            request: request.map(|(request, answer)| format!("{request}: {answer}")),
            near: near.collect(),
            needed: side.needed.clone().map(|text| self.by_name(text)),
        }
    }

    /// What is needed towards a name, as rules by name say it.
    fn by_name(&self, needed: String) -> String {
        match self.destination {
            Place::Name(name) => {
                let rule = format!("toFQDNs matchName {}", name.text);
                needed.replace("toEntities world", &rule)
            }
            _ => needed,
        }
    }

    fn rule(&self, source: &RuleSource, miss: Option<&'static str>) -> RuleReport {
        let world = self.world;
        let file = world.files.get(&source.policy);
        let object = world.objects.get(&source.policy);
        let part = object.and_then(|object| files::at(object, &source.path));
        RuleReport {
            kind: source.policy.kind.text(),
            namespace: source.policy.namespace.clone(),
            name: source.policy.name.clone(),
            path: source.path.clone(),
            action: source.action.text(),
            place: file.map(|document| document.place(&source.path)),
            miss,
            text: part
                .and_then(|part| serde_saphyr::to_string(part).ok())
                .unwrap_or_default(),
        }
    }
}

const fn word(passes: bool) -> &'static str {
    if passes { "allowed" } else { "denied" }
}

pub(super) fn text(report: &Report) -> String {
    let mut out = format!(
        "{} ({}) → {} ({})\n",
        report.source, report.source_detail, report.destination, report.destination_detail
    );
    for answer in &report.answers {
        let audited = match answer.audited {
            true => ", but passes: audit mode is on for who denies it",
            false => "",
        };
        let _ = writeln!(
            out,
            "\n{}: {}{audited}",
            answer.traffic.join(", "),
            answer.verdict
        );
        let sides = [
            (&answer.egress, "egress of", &report.source),
            (&answer.ingress, "ingress of", &report.destination),
        ];
        for (side, what, who) in sides {
            if let Some(side) = side {
                let _ = write!(out, "  {what} {who}: ");
                side_text(side, &mut out);
            }
        }
    }
    for note in &report.notes {
        let _ = writeln!(out, "\nNote: {note}");
    }
    out
}

fn side_text(side: &SideReport, out: &mut String) {
    let says = match (side.reason, side.verdict) {
        ("localhost", _) => "allowed: the host reaches its pods",
        ("not-enforced", _) => "allowed: no policy denies it or asks for more",
        ("no-rule", _) => "denied: no rule allows it",
        (_, "allowed") => "allowed by",
        _ => "denied by",
    };
    let _ = writeln!(out, "{says}");
    for rule in &side.rules {
        let _ = writeln!(out, "    {}", rule_text(rule));
        quote(&rule.text, out);
    }
    for text in [&side.via, &side.request].into_iter().flatten() {
        for line in text.lines() {
            let _ = writeln!(out, "    {}", line.trim_start());
        }
    }
    for rule in &side.near {
        let says = match rule.miss {
            Some("peer") => "allows this port, but not this peer",
            _ => "allows this peer, but not this port",
        };
        let _ = writeln!(out, "    {} {says}", rule_text(rule));
        quote(&rule.text, out);
    }
    if let Some(needed) = &side.needed {
        let _ = writeln!(out, "    needed: {needed}");
    }
}

fn rule_text(rule: &RuleReport) -> String {
    let name = match rule.namespace.as_str() {
        "" => rule.name.clone(),
        namespace => format!("{namespace}/{}", rule.name),
    };
    let place = rule
        .place
        .as_ref()
        .map(|place| format!(" ({place})"))
        .unwrap_or_default();
    format!("{} {name}: {}{place}", rule.kind, rule.path)
}

fn quote(text: &str, out: &mut String) {
    let lines: Vec<&str> = text.lines().collect();
    for line in lines.iter().take(QUOTED) {
        let _ = writeln!(out, "      | {line}");
    }
    if lines.len() > QUOTED {
        let _ = writeln!(out, "      | … {} more lines", lines.len() - QUOTED);
    }
}
