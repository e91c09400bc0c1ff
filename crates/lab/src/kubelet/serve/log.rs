//! `/containerLogs`: the log of a container, whole or in part, once or as it grows.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc;

use super::query::Query;
use crate::kubelet::handle::ContainerHandle;
use crate::kubelet::logs::{Wanted, previous, select};

/// What a client wants of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LogRequest {
    wanted: Wanted,
    follow: bool,
    previous: bool,
}

impl LogRequest {
    pub(super) fn parse(query: &Query) -> Result<LogRequest, String> {
        let number = |name: &str| -> Result<Option<usize>, String> {
            let Some(text) = query.get(name) else {
                return Ok(None);
            };
            let parsed = text.parse();
            parsed
                .map(Some)
                .map_err(|_| format!("{name}={text:?} is no number"))
        };
        let since = match (query.get("sinceTime"), number("sinceSeconds")?) {
            (Some(_), Some(_)) => {
                return Err("sinceTime and sinceSeconds exclude each other".into());
            }
            (Some(text), None) => Some(
                text.parse()
                    .map_err(|_| format!("sinceTime={text:?} is no time"))?,
            ),
            (None, Some(seconds)) => {
                let ago = SignedDuration::from_secs(seconds.try_into().unwrap_or(i64::MAX / 2));
                Some(Timestamp::now().checked_sub(ago).unwrap_or(Timestamp::MIN))
            }
            (None, None) => None,
        };
        let wanted = Wanted {
            tail: number("tailLines")?,
            since,
            timestamps: query.flag("timestamps"),
            limit: number("limitBytes")?,
        };
        Ok(LogRequest {
            wanted,
            follow: query.flag("follow"),
            previous: query.flag("previous"),
        })
    }
}

/// The beginning of an answer; what follows comes through the channel. The error is for the client.
pub(super) fn read(
    container: Arc<ContainerHandle>,
    request: LogRequest,
) -> Result<(Bytes, mpsc::Receiver<Bytes>), String> {
    let (tell, hear) = mpsc::channel(16);
    if request.previous {
        let path = previous(container.log.path());
        let data = std::fs::read(path).map_err(|_| {
            format!(
                "previous terminated container {:?} not found",
                container.name
            )
        })?;
        return Ok((select(&data, &request.wanted).into(), hear));
    }
    let watch = container.log.watch();
    let file = watch.borrow().file;
    let (data, offset) = part(container.log.path(), 0);
    let first = select(&data, &request.wanted);
    if request.follow {
        let left = request.wanted.limit.map(|l| l.saturating_sub(first.len()));
        let wanted = Wanted {
            tail: None,
            limit: left,
            ..request.wanted
        };
        tokio::spawn(follow(container, wanted, (file, offset), tell));
    }
    Ok((first.into(), hear))
}

/// The whole lines of a file from an offset on, and the offset after them.
fn part(path: &Path, offset: u64) -> (Vec<u8>, u64) {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        let mut data = Vec::new();
        file.read_to_end(&mut data)?;
        Ok(data)
    };
    let mut data = read().unwrap_or_default();
    let end = data
        .iter()
        .rposition(|b| *b == b'\n')
        .map_or(0, |at| at + 1);
    data.truncate(end);
    (data, offset + end as u64)
}

async fn follow(
    container: Arc<ContainerHandle>,
    mut wanted: Wanted,
    at: (u64, u64),
    tell: mpsc::Sender<Bytes>,
) {
    let mut watch = container.log.watch();
    let (mut file, mut offset) = at;
    loop {
        let now = *watch.borrow_and_update();
        if now.file != file {
            // What was written last to the file before.
            if now.file == file + 1 {
                let (rest, _) = part(&previous(container.log.path()), offset);
                if !send(&tell, &mut wanted, &rest).await {
                    return;
                }
            }
            (file, offset) = (now.file, 0);
        }
        let (data, next) = part(container.log.path(), offset);
        offset = next;
        if !send(&tell, &mut wanted, &data).await
            || now.closed && now.file > 0 && container.inside.borrow().is_none()
        {
            return;
        }
        tokio::select! {
            changed = watch.changed() => if changed.is_err() { return },
            () = tell.closed() => return,
        }
    }
}

/// False when the client has gone, or has got all it wanted.
async fn send(tell: &mpsc::Sender<Bytes>, wanted: &mut Wanted, data: &[u8]) -> bool {
    let text = select(data, wanted);
    if let Some(limit) = &mut wanted.limit {
        *limit -= text.len().min(*limit);
    }
    (text.is_empty() || tell.send(text.into()).await.is_ok()) && wanted.limit != Some(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests() {
        let parse = |text: &str| LogRequest::parse(&Query::parse(text));
        let full = parse(
            "follow=true&tailLines=5&timestamps=1&limitBytes=10&sinceTime=2026-01-01T00:00:00Z",
        )
        .unwrap();
        assert!(full.follow && !full.previous && full.wanted.timestamps);
        assert_eq!((full.wanted.tail, full.wanted.limit), (Some(5), Some(10)));
        assert!(parse("sinceSeconds=99999999999999").is_ok());
        for bad in [
            "tailLines=x",
            "tailLines=-1",
            "sinceTime=x",
            "sinceTime=2026-01-01T00:00:00Z&sinceSeconds=1",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
