//! Bulk over streams of any kind, and how long each takes.
//!
//! One side writes so many bytes to each stream, all at once, and ends them; the other reads to the end and says on
//! the way back how many there were. A stream is complete when that is known: one clock sees all of it.

use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Bytes of the application's writes and reads.
pub(super) const WRITE: usize = 64 << 10;

/// When streams were complete, since all of them began.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Times {
    pub(super) first: Duration,
    pub(super) last: Duration,
}

/// How many bytes each of so many streams has; the last ones have one less where it does not divide.
pub(super) fn shares(bytes: u64, streams: u32) -> impl Iterator<Item = u64> {
    let streams = u64::from(streams.max(1));
    (0..streams).map(move |n| bytes / streams + u64::from(n < bytes % streams))
}

/// Writes to all streams at once; each stream's share of `bytes`.
pub(super) async fn send<R, W>(streams: Vec<(R, W)>, bytes: u64) -> anyhow::Result<Times>
where
    R: AsyncRead + Unpin + Send + 'static,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let shares = shares(bytes, u32::try_from(streams.len()).unwrap_or(u32::MAX));
    let (start, mut all) = (Instant::now(), JoinSet::new());
    for ((read, write), share) in streams.into_iter().zip(shares) {
        all.spawn(async move { one(read, write, share).await.map(|()| start.elapsed()) });
    }
    let (mut first, mut last) = (Duration::MAX, Duration::ZERO);
    while let Some(took) = all.join_next().await {
        let took = took??;
        (first, last) = (first.min(took), last.max(took));
    }
    Ok(Times { first, last })
}

async fn one(
    mut read: impl AsyncRead + Unpin,
    mut write: impl AsyncWrite + Unpin,
    share: u64,
) -> anyhow::Result<()> {
    let block = vec![7; WRITE];
    let mut left = share;
    while left > 0 {
        let now = usize::try_from(left).unwrap_or(WRITE).min(WRITE);
        write.write_all(block.get(..now).unwrap_or_default()).await.context("writing")?;
        left -= now as u64;
    }
    write.shutdown().await.context("ending a stream")?;
    let got = read.read_u64().await.context("waiting for the other side")?;
    if got != share {
        bail!("the other side has {got} bytes of {share}");
    }
    Ok(())
}

/// Reads one stream to its end, and says how many bytes it had.
pub(super) async fn receive(
    mut read: impl AsyncRead + Unpin,
    mut write: impl AsyncWrite + Unpin,
) -> anyhow::Result<u64> {
    let (mut block, mut got) = (vec![0; WRITE], 0);
    loop {
        match read.read(&mut block).await.context("reading")? {
            0 => break,
            n => got += n as u64,
        }
    }
    write.write_u64(got).await.context("saying how much it was")?;
    write.shutdown().await.context("ending a stream")?;
    Ok(got)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_all_there_is() {
        assert_eq!(shares(10, 4).collect::<Vec<_>>(), [3, 3, 2, 2]);
        assert_eq!(shares(2, 3).collect::<Vec<_>>(), [1, 1, 0]);
        assert_eq!(shares(1 << 30, 1_000).sum::<u64>(), 1 << 30);
    }

    #[tokio::test]
    async fn what_is_sent_is_counted() {
        let (mut ours, mut reading) = (Vec::new(), JoinSet::new());
        for _ in 0..3 {
            let (near, far) = tokio::io::duplex(1_000);
            ours.push(tokio::io::split(near));
            let (read, write) = tokio::io::split(far);
            reading.spawn(receive(read, write));
        }
        let times = send(ours, 200_000).await.unwrap();
        assert!(times.first <= times.last);
        let mut all = 0;
        while let Some(got) = reading.join_next().await {
            all += got.unwrap().unwrap();
        }
        assert_eq!(all, 200_000);
    }
}
