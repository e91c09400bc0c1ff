//! Questions asked at a steady pace, each by itself: none waits for another's answer, none is asked twice.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{STALLED, Stop};
use crate::cluster::Place;

/// One question and what came of it.
#[derive(Clone, Debug)]
pub struct Asked {
    /// When it was asked.
    pub at: Instant,
    /// How long the answer took.
    pub took: Duration,
    /// The answer, or what went wrong.
    pub answer: Result<String, String>,
}

impl Asked {
    /// Whether the answer says this.
    #[must_use]
    pub fn says(&self, part: &str) -> bool {
        self.answer.as_ref().is_ok_and(|text| text.contains(part))
    }
}

/// Asks one question again and again.
#[derive(Debug)]
pub struct Asking {
    asked: Arc<Mutex<Vec<Asked>>>,
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

impl Asking {
    /// HTTP requests, each on a connection of its own; answers are what the server sends until it closes.
    #[must_use]
    pub fn http(from: &Place, to: IpAddr, method: &str, path: &str, pace: Duration) -> Asking {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: server\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        Self::start(from, pace, move |_| request_once((to, 80).into(), &request))
    }

    /// DNS questions for addresses of a name (without its last dot), each from a socket of its own; answers are as `rcode 0, 1 records`.
    #[must_use]
    pub fn dns(from: &Place, server: IpAddr, name: &str, pace: Duration) -> Asking {
        let name = name.to_owned();
        Self::start(from, pace, move |number| {
            look_up((server, 53).into(), number, &name)
        })
    }

    fn start(
        from: &Place,
        pace: Duration,
        ask: impl Fn(u16) -> io::Result<String> + Sync + Send + 'static,
    ) -> Asking {
        let netns = from.netns.try_clone().expect("a handle of the namespace");
        let (asked, stop) = (Arc::<Mutex<Vec<Asked>>>::default(), Stop::default());
        let (list, told) = (Arc::clone(&asked), stop.clone());
        let all = move || {
            thread::scope(|scope| {
                for number in 1.. {
                    if told.told() {
                        break;
                    }
                    let (ask, list) = (&ask, &list);
                    scope.spawn(move || {
                        let at = Instant::now();
                        let answer = ask(number).map_err(|e| e.to_string());
                        let took = at.elapsed();
                        let asked = Asked { at, took, answer };
                        list.lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(asked);
                    });
                    thread::sleep(pace);
                }
            });
        };
        let thread = thread::spawn(move || netns.run(all).expect("entering a namespace"));
        Asking {
            asked,
            stop,
            thread: Some(thread),
        }
    }

    /// How long after a moment the first question that was asked since had an answer that says this. `None` while there is none.
    #[must_use]
    pub fn first_since(&self, moment: Instant, part: &str) -> Option<Duration> {
        let list = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let answers = list.iter().filter(|a| a.at >= moment && a.says(part));
        answers.map(|a| (a.at + a.took) - moment).min()
    }

    /// Asks nothing more; everything that was asked, once it is answered.
    ///
    /// # Panics
    /// If asking panicked.
    #[must_use]
    pub fn finish(mut self) -> Vec<Asked> {
        self.stop();
        std::mem::take(&mut self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn stop(&mut self) {
        self.stop
            .0
            .store(true, std::sync::atomic::Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || thread::panicking(), "asking panicked");
        }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.stop();
    }
}

fn request_once(to: SocketAddr, request: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, STALLED)?;
    stream.set_read_timeout(Some(STALLED))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let text = String::from_utf8_lossy(&answer).into_owned();
    match text.is_empty() {
        true => Err(io::ErrorKind::UnexpectedEof.into()),
        false => Ok(text),
    }
}

fn look_up(server: SocketAddr, number: u16, name: &str) -> io::Result<String> {
    let any: IpAddr = if server.is_ipv4() {
        [0; 4].into()
    } else {
        [0; 16].into()
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(STALLED))?;
    socket.send(&question(number, name))?;
    let mut answer = [0; 1500];
    let length = socket.recv(&mut answer)?;
    answered(&answer[..length], number).ok_or_else(|| io::Error::other("another answer"))
}

/// For IPv4 addresses, with recursion asked for.
fn question(number: u16, name: &str) -> Vec<u8> {
    let mut message = number.to_be_bytes().to_vec();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}

fn answered(message: &[u8], number: u16) -> Option<String> {
    let ours = *message.first_chunk()? == number.to_be_bytes() && message.get(2)? & 0x80 != 0;
    let records = u16::from_be_bytes([*message.get(6)?, *message.get(7)?]);
    ours.then(|| format!("rcode {}, {records} records", message[3] & 15))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_as_the_protocol_has_them() {
        let message = question(7, "a.example");
        assert_eq!(&message[..12], [0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&message[12..], b"\x01a\x07example\0\0\x01\0\x01");
        let mut answer = message.clone();
        (answer[2], answer[3], answer[7]) = (0x81, 0x83, 2);
        assert_eq!(answered(&answer, 7).as_deref(), Some("rcode 3, 2 records"));
        assert_eq!(answered(&answer, 8), None);
        assert_eq!(answered(&message, 7), None);
    }
}
