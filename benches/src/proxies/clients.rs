//! Clients that ask one question after the other, and servers that answer at once.
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::report::percentile;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
const LOCAL: (&str, u16) = ("127.0.0.1", 0);
const BODY: &str = "Ship landed\n";
/// What names that may be looked up end with, and others.
const ZONES: [&[u8]; 2] = [b"\x07another\x00", b"\x07example\x00"];

/// One connection.
pub trait Client: Send {
    /// Asks what the rule allows, or what it denies; whether the answer is the server's.
    fn ask(&mut self, allowed: bool) -> Result<bool>;
}

/// What came of asking for a while: microseconds of every answer.
pub struct Load {
    pub latencies: Vec<f64>,
}

impl Load {
    pub fn percentile(&self, part: f64) -> f64 {
        percentile(&self.latencies, part)
    }
}

/// Asks what is allowed, with so many clients at once.
pub fn run(
    connect: fn(SocketAddr) -> Result<Box<dyn Client>>,
    to: SocketAddr,
    clients: usize,
    duration: Duration,
) -> Result<Load> {
    let mut connected: Vec<_> = (0..clients).map(|_| connect(to)).collect::<Result<_>>()?;
    let end = Instant::now() + duration;
    let ask = |client: &mut Box<dyn Client>| {
        let mut latencies = Vec::new();
        while Instant::now() < end {
            let begin = Instant::now();
            ensure!(client.ask(true)?, "what is allowed is refused");
            latencies.push(begin.elapsed().as_secs_f64() * 1e6);
        }
        Ok(latencies)
    };
    let all: Result<Vec<Vec<f64>>> = thread::scope(|scope| {
        let threads: Vec<_> = connected
            .iter_mut()
            .map(|client| scope.spawn(|| ask(client)))
            .collect();
        let ends = threads.into_iter().map(|thread| thread.join());
        ends.map(|end| end.ok().context("a client failed")?)
            .collect()
    });
    let latencies = all?.concat();
    ensure!(!latencies.is_empty(), "nothing was answered");
    Ok(Load { latencies })
}

struct Http(TcpStream);

/// HTTP/1.1 on a connection that is kept.
pub fn http(to: SocketAddr) -> Result<Box<dyn Client>> {
    let stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(Box::new(Http(stream)))
}

impl Client for Http {
    fn ask(&mut self, allowed: bool) -> Result<bool> {
        if !allowed {
            // Whoever refuses may close.
            let mut other = Http(TcpStream::connect(self.0.peer_addr()?)?);
            return other.request("PUT");
        }
        self.request("POST")
    }
}

impl Http {
    fn request(&mut self, method: &str) -> Result<bool> {
        let request = format!(
            "{method} /v1/request-landing HTTP/1.1\r\nHost: deathstar\r\nContent-Length: 0\r\n\r\n"
        );
        self.0.write_all(request.as_bytes())?;
        let (mut answer, mut length) = ([0; 4096], 0);
        loop {
            let got = self.0.read(&mut answer[length..])?;
            length += got;
            let text = &answer[..length];
            if text.ends_with(BODY.as_bytes()) {
                return Ok(true);
            }
            if text.starts_with(b"HTTP/1.1 403") {
                return Ok(false);
            }
            ensure!(got > 0, "no answer: {:?}", String::from_utf8_lossy(text));
        }
    }
}

/// A server that answers every request on its connections.
pub fn http_server() -> Result<SocketAddr> {
    let listener = TcpListener::bind(LOCAL)?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = thread::Builder::new().stack_size(128 << 10);
            // Whoever gets no thread gets no answer, and says so.
            let _ = serve.spawn(move || answer_http(stream));
        }
    });
    Ok(address)
}

fn answer_http(mut stream: TcpStream) -> std::io::Result<()> {
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{BODY}",
        BODY.len()
    );
    stream.set_nodelay(true)?;
    let (mut request, mut length) = ([0; 4096], 0);
    loop {
        let got = stream.read(&mut request[length..])?;
        if got == 0 {
            return Ok(());
        }
        length += got;
        if request[..length].ends_with(b"\r\n\r\n") {
            stream.write_all(answer.as_bytes())?;
            length = 0;
        }
    }
}

struct Dns {
    socket: UdpSocket,
    port: u16,
    number: u16,
}

/// Lookups by UDP from one port.
pub fn dns(to: SocketAddr) -> Result<Box<dyn Client>> {
    let socket = UdpSocket::bind(LOCAL)?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(Box::new(Dns {
        port: socket.local_addr()?.port(),
        socket,
        number: 0,
    }))
}

impl Client for Dns {
    fn ask(&mut self, allowed: bool) -> Result<bool> {
        self.number = self.number.wrapping_add(1);
        let mut question = self.number.to_be_bytes().to_vec();
        question.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        // Each asks for names of its own: equal questions may be passed on as one.
        let name = format!("{:05}{:05}", self.port, self.number);
        question.push(name.len() as u8);
        question.extend(name.as_bytes());
        question.extend(ZONES[usize::from(allowed)]);
        question.extend([0, 1, 0, 1]);
        self.socket.send(&question)?;
        let mut answer = [0; 1500];
        let length = self.socket.recv(&mut answer)?;
        ensure!(
            length >= 12 && answer[..2] == question[..2],
            "the answer to another question"
        );
        match (answer[3] & 15, answer[7]) {
            (0, 1) => Ok(true),
            (5, _) => Ok(false),
            (code, records) => bail!("an answer with code {code} and {records} records"),
        }
    }
}

/// A server that has one address for every name.
pub fn dns_server() -> Result<SocketAddr> {
    let socket = UdpSocket::bind(LOCAL)?;
    let address = socket.local_addr()?;
    thread::spawn(move || {
        let mut message = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut message) {
            if let Some(answer) = answer_dns(&message[..length]) {
                let _ = socket.send_to(&answer, from);
            }
        }
    });
    Ok(address)
}

/// The question, and one address; what else was in it is left out.
fn answer_dns(question: &[u8]) -> Option<Vec<u8>> {
    let mut end = 12;
    while *question.get(end)? != 0 {
        end += usize::from(*question.get(end)?) + 1;
    }
    let mut answer = question.get(..end + 5)?.to_vec();
    answer[2] |= 0x80;
    answer[3] = 0x80;
    answer[6..12].copy_from_slice(&[0, 1, 0, 0, 0, 0]);
    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]);
    Some(answer)
}
