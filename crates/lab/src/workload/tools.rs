//! Small programs that containers of tool images have where this machine lacks the real ones: `nslookup`, `dig`, `nc`.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::time::Duration;

use anyhow::{Context, bail};
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};

/// The programs that there are.
pub const TOOLS: [&str; 3] = ["nslookup", "dig", "nc"];

const LIMIT: Duration = Duration::from_secs(5);

/// Plays a program; the result is its exit code.
pub fn run(name: &str, args: &[String]) -> anyhow::Result<i32> {
    match name {
        "nslookup" => nslookup(args),
        "dig" => dig(args),
        "nc" => netcat(args),
        other => bail!("there is no tool {other:?}"),
    }
}

/// What the resolver is told: servers, search domains, and how many dots a whole name has.
#[derive(Debug, Default, PartialEq, Eq)]
struct Resolver {
    servers: Vec<IpAddr>,
    search: Vec<String>,
    dots: usize,
}

impl Resolver {
    fn parse(text: &str) -> Resolver {
        let mut found = Resolver {
            dots: 1,
            ..Resolver::default()
        };
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => found
                    .servers
                    .extend(words.next().and_then(|w| w.parse::<IpAddr>().ok())),
                Some("search") => found.search = words.map(str::to_owned).collect(),
                Some("options") => {
                    let dots = words.find_map(|w| w.strip_prefix("ndots:")?.parse().ok());
                    found.dots = dots.unwrap_or(found.dots);
                }
                _ => {}
            }
        }
        found
    }

    /// The names that are tried for one that was given.
    fn names(&self, given: &str) -> Vec<String> {
        if given.ends_with('.') {
            return vec![given.to_owned()];
        }
        let longer = self.search.iter().map(|s| format!("{given}.{s}."));
        let whole = format!("{given}.");
        if given.matches('.').count() >= self.dots {
            std::iter::once(whole).chain(longer).collect()
        } else {
            longer.chain([whole]).collect()
        }
    }
}

fn resolver(server: Option<&str>) -> anyhow::Result<Resolver> {
    let text = std::fs::read_to_string("/etc/resolv.conf").context("no /etc/resolv.conf")?;
    let mut resolver = Resolver::parse(&text);
    if let Some(server) = server {
        let mut all = (server, 53)
            .to_socket_addrs()
            .with_context(|| format!("server {server:?}"))?;
        resolver.servers = all.next().map(|a| a.ip()).into_iter().collect();
    }
    if resolver.servers.is_empty() {
        bail!("/etc/resolv.conf names no server");
    }
    Ok(resolver)
}

fn ask(server: IpAddr, name: &str, kind: RecordType) -> anyhow::Result<Message> {
    let mut request = Message::query();
    request.metadata.recursion_desired = true;
    let name = Name::from_ascii(name).with_context(|| format!("{name:?} is no name"))?;
    request.add_query(Query::query(name, kind));
    let any = if server.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(any).context("no socket")?;
    socket.set_read_timeout(Some(LIMIT)).context("no socket")?;
    socket
        .connect((server, 53))
        .context("cannot reach the server")?;
    socket
        .send(&request.to_vec()?)
        .context("cannot reach the server")?;
    let mut buffer = vec![0; 4096];
    let length = socket.recv(&mut buffer);
    let length = length
        .with_context(|| format!("connection timed out; no servers could be reached ({server})"))?;
    Message::from_vec(&buffer[..length]).context("a malformed answer")
}

/// The name to ask for: an address becomes its reverse name.
fn reverse(text: &str) -> Option<String> {
    let ip: IpAddr = text.parse().ok()?;
    Some(Name::from(ip).to_ascii())
}

fn nslookup(args: &[String]) -> anyhow::Result<i32> {
    let kind = args.iter().find_map(|a| {
        a.strip_prefix("-type=")
            .or_else(|| a.strip_prefix("-query="))
    });
    let words: Vec<&String> = args.iter().filter(|a| !a.starts_with('-')).collect();
    let Some(given) = words.first() else {
        bail!("usage: nslookup [-type=TYPE] NAME [SERVER]");
    };
    let resolver = resolver(words.get(1).map(|s| s.as_str()))?;
    let server = resolver.servers[0];
    println!(
        "Server:\t\t{server}\nAddress:\t{}\n",
        SocketAddr::new(server, 53)
    );
    let (names, kinds) = match (reverse(given), kind) {
        (Some(name), _) => (vec![name], vec![RecordType::PTR]),
        (None, Some(kind)) => (resolver.names(given), vec![record_type(kind)?]),
        (None, None) => (resolver.names(given), vec![RecordType::A, RecordType::AAAA]),
    };
    for name in &names {
        let mut found = false;
        for kind in &kinds {
            for record in ask(server, name, *kind)?.answers {
                found = true;
                let owner = record.name.to_ascii();
                let owner = owner.trim_end_matches('.');
                match record.record_type() {
                    RecordType::A | RecordType::AAAA => {
                        println!("Name:\t{owner}\nAddress: {}", record.data)
                    }
                    RecordType::PTR => println!("{owner}\tname = {}", record.data),
                    kind => println!("{owner}\t{kind} = {}", record.data),
                }
            }
        }
        if found {
            println!();
            return Ok(0);
        }
    }
    println!("** server can't find {given}: NXDOMAIN\n");
    Ok(1)
}

fn record_type(text: &str) -> anyhow::Result<RecordType> {
    text.to_uppercase()
        .parse()
        .map_err(|_| anyhow::anyhow!("{text:?} is no record type"))
}

fn dig(args: &[String]) -> anyhow::Result<i32> {
    let (mut server, mut name, mut kind) = (None, None, RecordType::A);
    let (mut short, mut search) = (false, false);
    for arg in args {
        match arg.as_str() {
            "+short" => short = true,
            "+search" => search = true,
            "-x" => kind = RecordType::PTR,
            other if other.starts_with(['+', '-']) => {}
            other if other.starts_with('@') => server = Some(&other[1..]),
            other => match record_type(other) {
                Ok(found)
                    if name.is_some() || !other.contains('.') && other.to_uppercase() == other =>
                {
                    kind = found
                }
                _ => name = Some(other),
            },
        }
    }
    let name = name.unwrap_or(".");
    let resolver = resolver(server)?;
    let names = match reverse(name) {
        Some(name) if kind == RecordType::PTR => vec![name],
        _ if search => resolver.names(name),
        _ => vec![format!("{}.", name.trim_end_matches('.'))],
    };
    let mut answer = None;
    for name in &names {
        let got = ask(resolver.servers[0], name, kind)?;
        let enough = !got.answers.is_empty();
        answer = Some(got);
        if enough {
            break;
        }
    }
    let answer = answer.context("nothing to ask for")?;
    if short {
        answer.answers.iter().for_each(|r| println!("{}", r.data));
        return Ok(0);
    }
    println!("\n; <<>> DiG (lab) <<>> {}", args.join(" "));
    let status = format!("{:?}", answer.metadata.response_code).to_uppercase();
    println!(
        ";; Got answer:\n;; ->>HEADER<<- opcode: QUERY, status: {status}, id: {}",
        answer.metadata.id
    );
    println!(
        ";; flags: qr{}; QUERY: 1, ANSWER: {}, AUTHORITY: {}\n",
        if answer.metadata.authoritative {
            " aa"
        } else {
            ""
        },
        answer.answers.len(),
        answer.authorities.len()
    );
    for (title, records) in [
        ("ANSWER", &answer.answers),
        ("AUTHORITY", &answer.authorities),
    ] {
        if !records.is_empty() {
            println!(";; {title} SECTION:");
            records.iter().for_each(|r| {
                println!(
                    "{}\t{}\tIN\t{}\t{}",
                    r.name.to_ascii(),
                    r.ttl,
                    r.record_type(),
                    r.data
                )
            });
            println!();
        }
    }
    println!(";; SERVER: {}#53", resolver.servers[0]);
    Ok(if answer.metadata.response_code == ResponseCode::ServFail {
        9
    } else {
        0
    })
}

/// Options of `nc`.
#[derive(Debug, Default, PartialEq, Eq)]
struct NetcatArgs {
    listen: bool,
    udp: bool,
    scan: bool,
    verbose: bool,
    wait: Option<u64>,
    words: Vec<String>,
}

fn netcat_args(args: &[String]) -> anyhow::Result<NetcatArgs> {
    let mut found = NetcatArgs::default();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let Some(letters) = arg.strip_prefix('-').filter(|l| !l.is_empty()) else {
            found.words.push(arg.clone());
            continue;
        };
        for letter in letters.chars() {
            match letter {
                'l' => found.listen = true,
                'u' => found.udp = true,
                'z' => found.scan = true,
                'v' => found.verbose = true,
                'w' => {
                    found.wait = Some(
                        args.next()
                            .and_then(|n| n.parse().ok())
                            .context("-w needs seconds")?,
                    )
                }
                'p' => found.words.extend(args.next().cloned()),
                'n' | 'N' | 'k' | '4' | '6' | 'q' => {}
                other => bail!("the lab's nc has no option -{other}: it has -l -u -z -v -w -p"),
            }
        }
    }
    Ok(found)
}

fn netcat(args: &[String]) -> anyhow::Result<i32> {
    let args = netcat_args(args)?;
    let port = args
        .words
        .last()
        .and_then(|p| p.parse::<u16>().ok())
        .context("usage: nc [-zvu] [-w SECONDS] HOST PORT, nc -l PORT")?;
    if args.listen {
        let (stream, _) = TcpListener::bind(("::", port))
            .or_else(|_| TcpListener::bind(("0.0.0.0", port)))?
            .accept()?;
        return both_ways(stream);
    }
    let host = args
        .words
        .first()
        .filter(|_| args.words.len() > 1)
        .context("which host?")?;
    let all: Vec<SocketAddr> = (host.as_str(), port)
        .to_socket_addrs()
        .with_context(|| format!("getaddrinfo for host {host:?} port {port}"))?
        .collect();
    let limit = args.wait.map_or(LIMIT * 12, Duration::from_secs);
    if args.udp {
        let mut input = Vec::new();
        io::stdin().read_to_end(&mut input)?;
        let to = all.first().context("no address")?;
        let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
        socket.send_to(&input, to)?;
        socket.set_read_timeout(Some(
            args.wait
                .map_or(Duration::from_secs(1), Duration::from_secs),
        ))?;
        let mut buffer = vec![0; 65536];
        if let Ok(length) = socket.recv(&mut buffer) {
            io::stdout().write_all(&buffer[..length])?;
        }
        return Ok(0);
    }
    let mut error = None;
    for to in all {
        match TcpStream::connect_timeout(&to, limit) {
            Ok(stream) => {
                if args.verbose {
                    eprintln!(
                        "Connection to {host} ({}) {port} port [tcp/*] succeeded!",
                        to.ip()
                    );
                }
                return if args.scan { Ok(0) } else { both_ways(stream) };
            }
            Err(e) => error = Some(e),
        }
    }
    if args.verbose {
        let why = error.map(|e| e.to_string()).unwrap_or_default();
        eprintln!("nc: connect to {host} port {port} (tcp) failed: {why}");
    }
    Ok(1)
}

fn both_ways(stream: TcpStream) -> anyhow::Result<i32> {
    let mut out = stream.try_clone()?;
    std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin(), &mut out);
        let _ = out.shutdown(std::net::Shutdown::Write);
    });
    let mut from = stream;
    io::copy(&mut from, &mut io::stdout())?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_searched_as_resolvers_do() {
        let resolver = Resolver::parse(
            "search a.b b\nnameserver 10.0.0.1\nnameserver x\noptions ndots:2 rotate\n",
        );
        assert_eq!(resolver.servers, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(resolver.names("web"), ["web.a.b.", "web.b.", "web."]);
        assert_eq!(
            resolver.names("x.y.z"),
            ["x.y.z.", "x.y.z.a.b.", "x.y.z.b."]
        );
        assert_eq!(resolver.names("web."), ["web."]);
        assert_eq!(
            reverse("10.0.0.1").as_deref(),
            Some("1.0.0.10.in-addr.arpa.")
        );
        assert_eq!(reverse("web"), None);
    }

    #[test]
    fn options_of_netcat() {
        let parse =
            |list: &[&str]| netcat_args(&list.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>());
        let scan = parse(&["-zv", "-w", "2", "web", "80"]).unwrap();
        assert!(scan.scan && scan.verbose && scan.wait == Some(2));
        assert_eq!(scan.words, ["web", "80"]);
        assert_eq!(parse(&["-l", "-p", "99"]).unwrap().words, ["99"]);
        assert!(parse(&["-e", "sh"]).is_err() && parse(&["-w"]).is_err());
    }
}
