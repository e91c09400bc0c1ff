//! Threads that serve. Each has a runtime of its own, and whatever a connection does stays on the thread that accepted it: between
//! its two legs nothing is handed from one thread to another, and nobody has to be woken.
use std::{io, thread};
use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
};

/// The threads; they end with the value.
pub(crate) struct Workers {
    handles: Vec<Handle>,
    _running: Vec<oneshot::Sender<()>>,
}

impl Workers {
    /// Starts so many threads, one at least, in the network of the calling one.
    ///
    /// # Errors
    /// There are no more to be had.
    pub(crate) fn start(count: usize) -> io::Result<Self> {
        let mut workers = Self {
            handles: Vec::new(),
            _running: Vec::new(),
        };
        for number in 0..count.max(1) {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let (running, ended) = oneshot::channel();
            workers.handles.push(runtime.handle().clone());
            workers._running.push(running);
            let thread = thread::Builder::new().name(format!("worker-{number}"));
            // Whoever ends it drops the other end; nothing is ever sent.
            thread.spawn(move || drop(runtime.block_on(ended)))?;
        }
        Ok(workers)
    }

    /// Every thread's runtime.
    pub(crate) fn all(&self) -> &[Handle] {
        &self.handles
    }

    /// The runtime of whoever does what cannot be shared.
    pub(crate) fn one(&self, number: usize) -> &Handle {
        &self.handles[number % self.handles.len()]
    }
}
