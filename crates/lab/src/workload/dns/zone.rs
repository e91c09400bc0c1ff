//! The cluster's names, as the specification of Kubernetes DNS has them. Pure: objects in, answers out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use anyhow::Context;
use hickory_proto::op::{Message, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::rows::{Endpoint, Entry, Port, Slice, entry, slice};

/// How long answers may be remembered, seconds.
const TTL: u32 = 5;
/// The version of the specification.
const VERSION: &str = "1.1.0";

/// What became of a question.
#[derive(Debug)]
pub enum Answered {
    /// The answer.
    Here(Message),
    /// The name is not the cluster's.
    Elsewhere,
    /// It is no question.
    Nothing,
}

type Key = (String, String);

/// All names of a cluster.
pub struct Zone {
    domain: Vec<String>,
    services: BTreeMap<Key, Entry>,
    slices: BTreeMap<Key, Slice>,
    listed: (bool, bool),
    serial: u32,
}

fn key(namespace: Option<&String>, name: Option<&String>) -> Key {
    (
        namespace.cloned().unwrap_or_default(),
        name.cloned().unwrap_or_default(),
    )
}

/// The name an endpoint has below its service.
fn endpoint_name(endpoint: &Endpoint) -> String {
    let dashed = || endpoint.ip.to_string().replace(['.', ':'], "-");
    endpoint.hostname.clone().unwrap_or_else(dashed)
}

/// An answer without records.
pub fn empty(request: &Message, code: ResponseCode) -> Message {
    let mut answer = Message::response(request.metadata.id, request.metadata.op_code);
    answer.metadata = Metadata::response_from_request(&request.metadata);
    answer.metadata.response_code = code;
    answer.metadata.recursion_available = true;
    answer.queries = request.queries.clone();
    answer
}

/// Records of a name; `None` when there is no such name.
type Found = Option<Vec<RData>>;

impl Zone {
    /// A zone without names yet.
    pub fn new(domain: &str) -> anyhow::Result<Zone> {
        let labels: Vec<String> = domain
            .trim_end_matches('.')
            .to_ascii_lowercase()
            .split('.')
            .map(str::to_owned)
            .collect();
        Name::from_ascii(domain).with_context(|| format!("{domain:?} is no domain"))?;
        Ok(Zone {
            domain: labels,
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            listed: (false, false),
            serial: 1,
        })
    }

    /// All services and endpoints have been heard of.
    pub fn complete(&self) -> bool {
        self.listed == (true, true)
    }

    /// Replaces all services.
    pub fn set_services(&mut self, all: Vec<Service>) {
        self.services.clear();
        all.iter().for_each(|s| self.put_service(s));
        self.listed.0 = true;
    }

    /// A service is new or changed.
    pub fn put_service(&mut self, service: &Service) {
        let meta = &service.metadata;
        self.services.insert(
            key(meta.namespace.as_ref(), meta.name.as_ref()),
            entry(service),
        );
        self.serial = self.serial.wrapping_add(1);
    }

    /// A service is gone.
    pub fn remove_service(&mut self, namespace: &str, name: &str) {
        self.services
            .remove(&(namespace.to_owned(), name.to_owned()));
        self.serial = self.serial.wrapping_add(1);
    }

    /// Replaces all endpoint slices.
    pub fn set_slices(&mut self, all: Vec<EndpointSlice>) {
        self.slices.clear();
        all.iter().for_each(|s| self.put_slice(s));
        self.listed.1 = true;
    }

    /// An endpoint slice is new or changed.
    pub fn put_slice(&mut self, object: &EndpointSlice) {
        let meta = &object.metadata;
        self.slices.insert(
            key(meta.namespace.as_ref(), meta.name.as_ref()),
            slice(object),
        );
        self.serial = self.serial.wrapping_add(1);
    }

    /// An endpoint slice is gone.
    pub fn remove_slice(&mut self, namespace: &str, name: &str) {
        self.slices.remove(&(namespace.to_owned(), name.to_owned()));
        self.serial = self.serial.wrapping_add(1);
    }

    /// Answers a request.
    pub fn answer(&self, request: &Message) -> Answered {
        if request.metadata.message_type != hickory_proto::op::MessageType::Query {
            return Answered::Nothing;
        }
        let ([query], OpCode::Query) = (request.queries.as_slice(), request.metadata.op_code)
        else {
            return Answered::Here(empty(request, ResponseCode::NotImp));
        };
        if query.query_class() != DNSClass::IN {
            return Answered::Here(empty(request, ResponseCode::Refused));
        }
        let labels: Vec<String> = query
            .name()
            .iter()
            .map(|l| String::from_utf8_lossy(l).to_ascii_lowercase())
            .collect();
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        let found = if let Some(rest) = self.inside(&labels) {
            self.forward(rest, query.query_type())
        } else if let Some(ip) = query.name().parse_arpa_name().ok().map(|net| net.addr()) {
            match self.reverse(ip) {
                Some(names) => Some(names),
                None => return Answered::Elsewhere,
            }
        } else {
            return Answered::Elsewhere;
        };
        Answered::Here(self.render(request, query.name(), query.query_type(), found))
    }

    fn render(&self, request: &Message, name: &Name, kind: RecordType, found: Found) -> Message {
        let code = if found.is_some() {
            ResponseCode::NoError
        } else {
            ResponseCode::NXDomain
        };
        let mut answer = empty(request, code);
        answer.metadata.authoritative = true;
        let wanted = |d: &RData| {
            kind == RecordType::ANY
                || d.record_type() == kind
                || d.record_type() == RecordType::CNAME
        };
        for data in found.into_iter().flatten().filter(wanted) {
            answer.add_answer(Record::from_rdata(name.clone(), TTL, data));
        }
        if answer.answers.is_empty() {
            answer.authorities.extend(self.authority());
        }
        answer
    }

    fn authority(&self) -> Option<Record> {
        let zone = Name::from_labels(self.domain.iter().map(String::as_bytes)).ok()?;
        let below = |label: &str| zone.prepend_label(label.as_bytes()).ok();
        let soa = SOA::new(
            below("ns")?,
            below("hostmaster")?,
            self.serial,
            7200,
            1800,
            86400,
            TTL,
        );
        Some(Record::from_rdata(zone, TTL, RData::SOA(soa)))
    }

    /// The labels before the zone's own.
    fn inside<'a, 'b>(&self, labels: &'b [&'a str]) -> Option<&'b [&'a str]> {
        let at = labels.len().checked_sub(self.domain.len())?;
        (labels[at..] == self.domain).then(|| &labels[..at])
    }

    fn name(&self, labels: &[&str]) -> Option<Name> {
        let own = self.domain.iter().map(String::as_str);
        let mut name =
            Name::from_labels(labels.iter().copied().chain(own).map(str::as_bytes)).ok()?;
        name.set_fqdn(true);
        Some(name)
    }

    fn forward(&self, labels: &[&str], kind: RecordType) -> Found {
        match labels {
            [] => Some(self.authority().map(|r| r.data).into_iter().collect()),
            ["dns-version"] => Some(vec![RData::TXT(TXT::new(vec![VERSION.to_owned()]))]),
            // Names on the way to others exist, and have no records.
            ["svc" | "pod"] => Some(Vec::new()),
            [namespace, "svc"] => self
                .services
                .keys()
                .any(|(n, _)| n == namespace)
                .then(Vec::new),
            [ip, _namespace, "pod"] => Some(vec![address(undashed(ip)?)]),
            [service, namespace, "svc"] => self.service(namespace, service, kind),
            [
                protocol @ ("_tcp" | "_udp" | "_sctp"),
                service,
                namespace,
                "svc",
            ] => {
                let _ = protocol;
                self.services
                    .contains_key(&((*namespace).to_owned(), (*service).to_owned()))
                    .then(Vec::new)
            }
            [port, protocol, service, namespace, "svc"] => {
                let (port, protocol) = (port.strip_prefix('_')?, protocol.strip_prefix('_')?);
                self.ports(namespace, service, port, protocol)
            }
            [endpoint, service, namespace, "svc"] => self.endpoint(namespace, service, endpoint),
            _ => None,
        }
    }

    fn entry(&self, namespace: &str, service: &str) -> Option<&Entry> {
        self.services
            .get(&(namespace.to_owned(), service.to_owned()))
    }

    /// Endpoints of a headless service, with the ports of their slices.
    fn endpoints<'a>(
        &'a self,
        namespace: &'a str,
        service: &'a str,
        entry: &Entry,
    ) -> impl Iterator<Item = (&'a Endpoint, &'a [Port])> + use<'a> {
        let unready = entry.unready;
        let slices = self
            .slices
            .iter()
            .filter(move |((n, _), s)| n == namespace && s.service == service);
        slices.flat_map(move |(_, s)| {
            s.endpoints
                .iter()
                .filter(move |e| e.ready || unready)
                .map(move |e| (e, s.ports.as_slice()))
        })
    }

    fn service(&self, namespace: &str, service: &str, kind: RecordType) -> Found {
        let entry = self.entry(namespace, service)?;
        if let Some(external) = &entry.external {
            let mut name = Name::from_ascii(external).ok()?;
            name.set_fqdn(true);
            return Some(vec![RData::CNAME(CNAME(name))]);
        }
        if kind == RecordType::SRV {
            let all = entry
                .ports
                .iter()
                .flat_map(|p| self.ports(namespace, service, &p.name, &p.protocol))
                .flatten();
            return Some(all.collect());
        }
        if entry.headless {
            let ips: BTreeSet<IpAddr> = self
                .endpoints(namespace, service, entry)
                .map(|(e, _)| e.ip)
                .collect();
            // A headless service without endpoints has no name, as elsewhere.
            return (!ips.is_empty()).then(|| ips.into_iter().map(address).collect());
        }
        Some(entry.ips.iter().copied().map(address).collect())
    }

    fn endpoint(&self, namespace: &str, service: &str, name: &str) -> Found {
        let entry = self.entry(namespace, service)?;
        let named = self
            .endpoints(namespace, service, entry)
            .filter(|(e, _)| endpoint_name(e) == name);
        let ips: BTreeSet<IpAddr> = named.map(|(e, _)| e.ip).collect();
        (!ips.is_empty()).then(|| ips.into_iter().map(address).collect())
    }

    fn ports(&self, namespace: &str, service: &str, port: &str, protocol: &str) -> Found {
        let entry = self.entry(namespace, service)?;
        let wanted = |p: &&Port| {
            (p.name == port || port == "*") && (p.protocol == protocol || protocol == "*")
        };
        let mut records = Vec::new();
        if entry.headless {
            for (endpoint, ports) in self.endpoints(namespace, service, entry) {
                let target = self.name(&[&endpoint_name(endpoint), service, namespace, "svc"])?;
                records.extend(
                    ports
                        .iter()
                        .filter(wanted)
                        .map(|p| RData::SRV(SRV::new(0, 100, p.number, target.clone()))),
                );
            }
        } else {
            let target = self.name(&[service, namespace, "svc"])?;
            records.extend(
                entry
                    .ports
                    .iter()
                    .filter(wanted)
                    .map(|p| RData::SRV(SRV::new(0, 100, p.number, target.clone()))),
            );
        }
        (!records.is_empty()).then_some(records)
    }

    fn reverse(&self, ip: IpAddr) -> Found {
        let service = self.services.iter().find(|(_, e)| e.ips.contains(&ip));
        if let Some(((namespace, name), _)) = service {
            return Some(vec![RData::PTR(PTR(self.name(&[name, namespace, "svc"])?))]);
        }
        let slices = self.slices.iter();
        let named = slices.flat_map(|((namespace, _), s)| {
            s.endpoints.iter().map(move |e| (namespace, &s.service, e))
        });
        let (namespace, service, endpoint) =
            named.into_iter().find(|(namespace, service, e)| {
                e.ip == ip && e.ready && self.entry(namespace, service).is_some_and(|s| s.headless)
            })?;
        Some(vec![RData::PTR(PTR(self.name(&[
            &endpoint_name(endpoint),
            service,
            namespace,
            "svc",
        ])?))])
    }
}

fn address(ip: IpAddr) -> RData {
    match ip {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    }
}

/// `10-0-0-1` and `fd00--1` as addresses.
fn undashed(text: &str) -> Option<IpAddr> {
    let v4 = text
        .replace('-', ".")
        .parse::<Ipv4Addr>()
        .ok()
        .map(IpAddr::from);
    v4.or_else(|| text.replace('-', ":").parse().ok())
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::Query;
    use serde_json::json;

    use super::*;

    fn zone() -> Zone {
        let service = |v: serde_json::Value| serde_json::from_value::<Service>(v).unwrap();
        let mut zone = Zone::new("cluster.local").unwrap();
        zone.set_services(vec![
            service(json!({"metadata": {"name": "web", "namespace": "default"}, "spec": {"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5", "fd00:96::5"],
                "ports": [{"name": "http", "port": 80}, {"name": "quic", "port": 443, "protocol": "UDP"}]}})),
            service(json!({"metadata": {"name": "db", "namespace": "prod"}, "spec": {"clusterIP": "None", "ports": [{"name": "sql", "port": 5432}]}})),
            service(json!({"metadata": {"name": "none", "namespace": "prod"}, "spec": {"clusterIP": "None"}})),
            service(json!({"metadata": {"name": "ext", "namespace": "prod"}, "spec": {"type": "ExternalName", "externalName": "example.org"}})),
        ]);
        assert!(!zone.complete());
        let slice = json!({"metadata": {"name": "db-x", "namespace": "prod", "labels": {"kubernetes.io/service-name": "db"}}, "addressType": "IPv4",
            "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}], "endpoints": [
            {"addresses": ["10.0.0.1"], "hostname": "db-0", "conditions": {"ready": true}},
            {"addresses": ["10.0.0.2"], "conditions": {}}, {"addresses": ["10.0.0.3"], "conditions": {"ready": false}}]});
        zone.set_slices(vec![serde_json::from_value(slice).unwrap()]);
        assert!(zone.complete());
        zone
    }

    fn ask(name: &str, kind: RecordType) -> Option<(ResponseCode, Vec<String>)> {
        let mut request = Message::query();
        request.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        // As it goes over the network.
        let request = Message::from_vec(&request.to_vec().unwrap()).unwrap();
        match zone().answer(&request) {
            Answered::Here(answer) => {
                let answer = Message::from_vec(&answer.to_vec().unwrap()).unwrap();
                assert_eq!(answer.metadata.id, request.metadata.id);
                let has_authority = answer
                    .authorities
                    .iter()
                    .any(|r| r.record_type() == RecordType::SOA);
                assert_eq!(has_authority, answer.answers.is_empty());
                let mut texts: Vec<String> =
                    answer.answers.iter().map(|r| r.data.to_string()).collect();
                texts.sort();
                Some((answer.metadata.response_code, texts))
            }
            _ => None,
        }
    }

    fn records(name: &str, kind: RecordType) -> Vec<String> {
        let (code, records) = ask(name, kind).unwrap();
        assert_eq!(code, ResponseCode::NoError, "{name}");
        records
    }

    #[test]
    fn services() {
        assert_eq!(
            records("web.default.svc.cluster.local.", RecordType::A),
            ["10.96.0.5"]
        );
        assert_eq!(
            records("WEB.Default.svc.cluster.LOCAL.", RecordType::AAAA),
            ["fd00:96::5"]
        );
        assert_eq!(
            records("_http._tcp.web.default.svc.cluster.local.", RecordType::SRV),
            ["0 100 80 web.default.svc.cluster.local."]
        );
        assert_eq!(
            records("ext.prod.svc.cluster.local.", RecordType::A),
            ["example.org."]
        );
        assert_eq!(
            records("dns-version.cluster.local.", RecordType::TXT),
            [VERSION]
        );
        // There, but nothing of the kind.
        assert!(records("web.default.svc.cluster.local.", RecordType::MX).is_empty());
        assert!(records("default.svc.cluster.local.", RecordType::A).is_empty());
        assert!(records("_tcp.web.default.svc.cluster.local.", RecordType::A).is_empty());
    }

    #[test]
    fn headless_services_and_pods() {
        assert_eq!(
            records("db.prod.svc.cluster.local.", RecordType::A),
            ["10.0.0.1", "10.0.0.2"]
        );
        assert_eq!(
            records("db-0.db.prod.svc.cluster.local.", RecordType::A),
            ["10.0.0.1"]
        );
        assert_eq!(
            records("10-0-0-2.db.prod.svc.cluster.local.", RecordType::A),
            ["10.0.0.2"]
        );
        assert_eq!(
            records("_sql._tcp.db.prod.svc.cluster.local.", RecordType::SRV),
            [
                "0 100 5432 10-0-0-2.db.prod.svc.cluster.local.",
                "0 100 5432 db-0.db.prod.svc.cluster.local."
            ]
        );
        assert_eq!(
            records("10-0-0-9.default.pod.cluster.local.", RecordType::A),
            ["10.0.0.9"]
        );
        assert_eq!(
            records("fd00--9.default.pod.cluster.local.", RecordType::AAAA),
            ["fd00::9"]
        );
    }

    #[test]
    fn reverse_names() {
        assert_eq!(
            records("5.0.96.10.in-addr.arpa.", RecordType::PTR),
            ["web.default.svc.cluster.local."]
        );
        assert_eq!(
            records("1.0.0.10.in-addr.arpa.", RecordType::PTR),
            ["db-0.db.prod.svc.cluster.local."]
        );
        assert!(
            ask("9.9.9.9.in-addr.arpa.", RecordType::PTR).is_none(),
            "others may know"
        );
    }

    #[test]
    fn what_is_not_there() {
        let missing = [
            "no.default.svc.cluster.local.",
            "none.prod.svc.cluster.local.",
            "x.nowhere.svc.cluster.local.",
            "nowhere.svc.cluster.local.",
            "a.b.c.d.e.svc.cluster.local.",
            "web.cluster.local.",
            "_no._tcp.web.default.svc.cluster.local.",
            "db-9.db.prod.svc.cluster.local.",
            "web.default.svc.cluster.local.default.svc.cluster.local.",
            "x-y.default.pod.cluster.local.",
        ];
        for name in missing {
            assert_eq!(
                ask(name, RecordType::A).unwrap().0,
                ResponseCode::NXDomain,
                "{name}"
            );
        }
        assert!(ask("example.org.", RecordType::A).is_none());
        assert!(ask("local.", RecordType::A).is_none());
    }
}
