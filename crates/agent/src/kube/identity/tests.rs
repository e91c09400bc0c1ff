use super::*;
use abi::identity::{HOST, KUBE_APISERVER};
use ipnet::IpNet;
use model::{
    CiliumNode, Endpoint, Identity, IdentityKind, LocalNode, ManualEndpoints, Node, PrefixIdentity,
    UsedPrefix,
};
use runtime::settings::Settings;

struct Kept {
    tables: Tables,
    keeper: Keeper,
}

impl Kept {
    fn new(pairs: &[(&str, &str)], grace: Duration) -> Self {
        let mut settings = Settings::default();
        for (key, value) in pairs {
            settings.set(key, value, "test").unwrap();
        }
        let tables = Tables::new().unwrap();
        let labeller = Labeller::new(&settings).unwrap();
        let identities = Identities::new(&tables, labeller, Duration::from_secs(3600));
        let options = KeeperOptions {
            ipv4: true,
            ipv6: true,
            nodes_by_cidr: false,
            grace,
            directory: None,
        };
        let keeper = Keeper::new(&tables, identities, options);
        Self { tables, keeper }
    }

    fn step(&mut self) {
        self.keeper.step(&self.tables.db.snapshot()).unwrap();
    }

    fn use_range(&mut self, range: &str, labels: &[&str]) {
        let mut txn = self.tables.db.write();
        let row = UsedPrefix {
            prefix: range.parse().unwrap(),
            labels: labels.iter().map(|text| (*text).to_owned()).collect(),
        };
        self.tables.used_prefixes.insert(&mut txn, row).unwrap();
        txn.commit();
        self.step();
    }

    fn number(&self, range: &str) -> Option<u32> {
        let range: IpNet = range.parse().unwrap();
        let snapshot = self.tables.db.snapshot();
        let row = self.tables.prefix_identities.get(&snapshot, &range);
        row.map(|row: &Arc<PrefixIdentity>| row.identity)
    }

    fn labels(&self, id: u32) -> Option<String> {
        let snapshot = self.tables.db.snapshot();
        let row = self.tables.identities.get(&snapshot, &id);
        row.map(|row: &Arc<Identity>| row.labels.to_string())
    }

    fn serve_at(&mut self, addresses: &[&str]) {
        let mut txn = self.tables.db.write();
        let row = ManualEndpoints {
            key: "default/kubernetes".into(),
            service: "default/kubernetes".into(),
            addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
        };
        let table = &self.tables.policies.manual_endpoints;
        table.insert(&mut txn, row).unwrap();
        txn.commit();
        self.step();
    }
}

#[test]
fn ranges_have_numbers_while_they_are_used() {
    let mut kept = Kept::new(&[], Duration::ZERO);
    kept.use_range("198.51.100.0/24", &[]);
    let first = kept.number("198.51.100.0/24").unwrap();
    assert_eq!(
        kept.labels(first).unwrap(),
        "cidr:198.51.100.0/24,reserved:world"
    );
    // Other labels are another identity; the old number goes.
    kept.use_range("198.51.100.0/24", &["cidrgroup:office"]);
    let second = kept.number("198.51.100.0/24").unwrap();
    assert_ne!(second, first);
    assert!(kept.labels(second).unwrap().contains("cidrgroup:office"));
    assert_eq!(kept.labels(first), None);
    // What lies within belongs to the group as well.
    kept.use_range("198.51.100.7/32", &[]);
    let within = kept.number("198.51.100.7/32").unwrap();
    assert!(kept.labels(within).unwrap().contains("cidrgroup:office"));
    // All addresses have the identity of the world.
    kept.use_range("0.0.0.0/0", &[]);
    assert_eq!(kept.number("0.0.0.0/0"), None);
    let mut txn = kept.tables.db.write();
    kept.tables.used_prefixes.clear(&mut txn);
    txn.commit();
    kept.step();
    assert_eq!(kept.number("198.51.100.0/24"), None);
    assert_eq!((kept.labels(second), kept.labels(within)), (None, None));
}

#[test]
fn the_api_server_is_known_wherever_it_is() {
    let mut kept = Kept::new(&[], Duration::ZERO);
    let mut txn = kept.tables.db.write();
    let node = |name: &str, ip: &str| Node {
        name: name.to_owned(),
        addresses: vec![ip.parse().unwrap()],
        labels: [("zone".to_owned(), "a".to_owned())].into(),
        ..Node::default()
    };
    let local = LocalNode {
        addresses: vec!["192.0.2.1".parse().unwrap()],
        node: node("n1", "192.0.2.1"),
        ..LocalNode::default()
    };
    kept.tables.local_node.insert(&mut txn, local).unwrap();
    for (name, ip) in [("n1", "192.0.2.1"), ("n2", "192.0.2.2")] {
        kept.tables.nodes.insert(&mut txn, node(name, ip)).unwrap();
    }
    txn.commit();
    kept.serve_at(&["192.0.2.1", "192.0.2.2", "198.51.100.9"]);
    assert_eq!(kept.number("192.0.2.1/32"), None, "it is the host");
    assert_eq!(
        kept.labels(HOST).unwrap(),
        "reserved:host,reserved:kube-apiserver"
    );
    assert_eq!(kept.number("192.0.2.2/32"), Some(KUBE_APISERVER));
    let outside = kept.number("198.51.100.9/32").unwrap();
    assert_eq!(
        kept.labels(outside).unwrap(),
        "cidr:198.51.100.9/32,reserved:kube-apiserver,reserved:world"
    );
    kept.serve_at(&["192.0.2.2"]);
    assert_eq!(kept.labels(HOST).unwrap(), "reserved:host");
    assert_eq!(kept.number("198.51.100.9/32"), None);
}

#[test]
fn nodes_have_numbers_by_their_labels_where_rules_may_select_them() {
    let mut kept = Kept::new(&[("enable-node-selector-labels", "true")], Duration::ZERO);
    let mut txn = kept.tables.db.write();
    for (name, zone) in [("n1", "a"), ("n2", "a"), ("n3", "b")] {
        let labels = [("zone", zone), ("kubernetes.io/hostname", name)];
        let node = Node {
            name: name.to_owned(),
            addresses: vec![format!("192.0.2.{}", &name[1..]).parse().unwrap()],
            labels: labels
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            ..Node::default()
        };
        kept.tables.nodes.insert(&mut txn, node).unwrap();
    }
    txn.commit();
    kept.step();
    // What its agent says of it comes later.
    let mut txn = kept.tables.db.write();
    let said = CiliumNode {
        name: "n3".to_owned(),
        routers: vec!["10.0.3.1".parse().unwrap()],
        ..CiliumNode::default()
    };
    kept.tables.cilium_nodes.insert(&mut txn, said).unwrap();
    txn.commit();
    kept.step();
    assert_eq!(kept.number("10.0.3.1/32"), kept.number("192.0.2.3/32"));
    let number = |n: u8| kept.number(&format!("192.0.2.{n}/32")).unwrap();
    assert_eq!(number(1), number(2));
    assert_ne!(number(1), number(3));
    assert_eq!(
        kept.labels(number(3)).unwrap(),
        "node:zone=b,reserved:remote-node"
    );
}

#[test]
fn numbers_of_the_cluster_follow_the_objects_and_the_pods_that_have_them() {
    let mut kept = Kept::new(&[("fixed-identity-mapping", "130=store")], Duration::ZERO);
    assert_eq!(
        kept.labels(130).unwrap(),
        "k8s:io.cilium.fixed-identity=store"
    );
    let labels = |text: &str| [text.to_owned()].into_iter().collect::<Labels>();
    let mut txn = kept.tables.db.write();
    let object = model::ClusterIdentity {
        id: 300,
        labels: labels("k8s:app=a"),
    };
    kept.tables
        .cilium_identities
        .insert(&mut txn, object)
        .unwrap();
    let endpoint = Endpoint {
        labels: labels("k8s:app=b"),
        identity: 301,
        ..crate::kube::tests::endpoint(7)
    };
    kept.tables.endpoints.insert(&mut txn, endpoint).unwrap();
    txn.commit();
    kept.step();
    assert_eq!(kept.labels(300).unwrap(), "k8s:app=a");
    assert_eq!(
        kept.labels(301).unwrap(),
        "k8s:app=b",
        "a pod of this node has it"
    );
    let mut txn = kept.tables.db.write();
    kept.tables.cilium_identities.delete(&mut txn, &300);
    kept.tables.endpoints.delete(&mut txn, &7);
    txn.commit();
    kept.step();
    assert_eq!((kept.labels(300), kept.labels(301)), (None, None));
    assert_eq!(kept.left(), 0);
}

impl Kept {
    /// How many numbers of the cluster are left.
    fn left(&self) -> usize {
        let snapshot = self.tables.db.snapshot();
        let all = self.tables.identities.iter(&snapshot);
        all.filter(|row| row.kind == IdentityKind::Cluster).count()
    }
}
