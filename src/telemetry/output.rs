//! Writes log lines on a thread of its own, since no other thread may wait for the reader.
//!
//! **Runs on**: any thread hands lines over; the thread it starts writes them. **Owns**: the lines
//! that wait to be written, at most [`LINES_MAX`] and [`BYTES_MAX`]. **Never**: makes a thread that
//! logs wait, or panics, even if the reader has gone.
//!
//! A reader that stalls or goes away costs lines: they are counted, and how many there were is
//! written as soon as lines flow again. (`tracing-appender` has such a writer, but it is bounded in
//! lines only, does not count the line whose write failed, and prints with `println!` when it is
//! dropped while the reader stalls, which blocks or panics at the very moment this is about.)

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::Builder;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

/// The most lines that wait to be written. So many take some 50 ms to write.
const LINES_MAX: usize = 4096;
/// The most bytes that wait to be written: what a stalled reader may cost in memory.
const BYTES_MAX: usize = 1024 * 1024;
/// How often lost lines are reported while more are lost.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// How long to wait before another try where standard error is full and another process has made it
/// non-blocking.
const REST: Duration = Duration::from_millis(10);

enum Order {
    Write(Box<[u8]>),
    /// Answer when every line before this order has been written or dropped.
    Flush(Sender<()>),
}

#[derive(Debug, Default)]
struct Counts {
    waiting_bytes: AtomicUsize,
    dropped: AtomicU64,
}

/// A handle on the thread; the thread ends with the last of them.
#[derive(Debug, Clone)]
pub struct Output {
    orders: Sender<Order>,
    counts: Arc<Counts>,
}

impl Output {
    /// Starts the thread, which writes to `target`. `report` makes the line that says how many
    /// lines were dropped.
    ///
    /// # Errors
    ///
    /// The system gives no more threads.
    pub fn start(
        name: &str,
        target: impl Write + Send + 'static,
        report: impl Fn(u64) -> String + Send + 'static,
    ) -> io::Result<Self> {
        let (orders, taken) = bounded(LINES_MAX);
        let counts = Arc::new(Counts::default());
        let printer = Printer {
            target,
            report,
            counts: Arc::clone(&counts),
            reported: 0,
            reported_at: None,
            is_torn: false,
        };
        Builder::new().name(name.to_owned()).spawn(move || printer.run(&taken))?;
        Ok(Self { orders, counts })
    }

    /// Hands a whole line over, or drops and counts it. Does not wait.
    pub fn push(&self, line: &[u8]) {
        let waiting = self.counts.waiting_bytes.fetch_add(line.len(), Ordering::Relaxed);
        if waiting + line.len() > BYTES_MAX
            || self.orders.try_send(Order::Write(line.into())).is_err()
        {
            self.counts.waiting_bytes.fetch_sub(line.len(), Ordering::Relaxed);
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines that were not written, since start.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.counts.dropped.load(Ordering::Relaxed)
    }

    /// Waits until every line handed over before has been written or dropped, but no longer than
    /// `patience`. For a process that ends.
    pub fn finish(&self, patience: Duration) {
        let until = Instant::now() + patience;
        let (done, answer) = bounded(1);
        if self.orders.send_timeout(Order::Flush(done), patience).is_ok() {
            // The process ends whether or not the lines were written in time.
            let _flushed = answer.recv_deadline(until);
        }
    }
}

/// Each call of `write` is taken as one line.
impl Write for Output {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What the thread owns.
struct Printer<W, R> {
    target: W,
    report: R,
    counts: Arc<Counts>,
    /// How many dropped lines have been reported, and when last.
    reported: u64,
    reported_at: Option<Instant>,
    /// Whether only the beginning of a line could be written. Then a line break comes before the
    /// next.
    is_torn: bool,
}

impl<W: Write, R: Fn(u64) -> String> Printer<W, R> {
    #[expect(clippy::disallowed_methods, reason = "this thread is there to wait")]
    fn run(mut self, orders: &Receiver<Order>) {
        while let Ok(order) = orders.recv() {
            match order {
                Order::Write(line) => {
                    let written = self.print(&line);
                    self.counts.waiting_bytes.fetch_sub(line.len(), Ordering::Relaxed);
                    if written.is_err() {
                        self.counts.dropped.fetch_add(1, Ordering::Relaxed);
                    } else if orders.is_empty() || self.is_report_due() {
                        self.report_dropped();
                    }
                }
                Order::Flush(done) => {
                    self.report_dropped();
                    // The caller may have stopped waiting.
                    let _sent = done.try_send(());
                }
            }
        }
    }

    fn is_report_due(&self) -> bool {
        self.reported_at.is_none_or(|at| at.elapsed() >= REPORT_INTERVAL)
    }

    /// Writes how many lines were dropped since this was written last.
    fn report_dropped(&mut self) {
        let dropped = self.counts.dropped.load(Ordering::Relaxed);
        if dropped > self.reported {
            let line = (self.report)(dropped - self.reported);
            if self.print(line.as_bytes()).is_ok() {
                self.reported = dropped;
                self.reported_at = Some(Instant::now());
            }
        }
    }

    fn print(&mut self, line: &[u8]) -> io::Result<()> {
        if self.is_torn {
            self.write_all(b"\n")?;
            self.is_torn = false;
        }
        self.write_all(line)?;
        self.target.flush()
    }

    #[expect(clippy::disallowed_methods, reason = "this thread is there to wait")]
    fn write_all(&mut self, mut rest: &[u8]) -> io::Result<()> {
        let whole = rest.len();
        while !rest.is_empty() {
            match self.target.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(REST),
                Err(error) => {
                    self.is_torn |= rest.len() < whole;
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, PipeReader, pipe};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn start() -> (Output, PipeReader) {
        let (reader, writer) = pipe().unwrap();
        let report = |count| format!("{count} log lines were dropped\n");
        (Output::start("log", writer, report).unwrap(), reader)
    }

    #[test]
    fn lines_come_out_whole_and_in_order() {
        let (output, reader) = start();
        for number in 0..1_000 {
            output.push(format!("{number}\n").as_bytes());
        }
        output.finish(PATIENCE);
        assert_eq!(output.dropped(), 0);
        drop(output);
        let lines: Vec<String> = BufReader::new(reader).lines().map(Result::unwrap).collect();
        assert_eq!(lines, (0..1_000).map(|number: u32| number.to_string()).collect::<Vec<_>>());
    }

    /// More than the pipe and the lane hold: the logger goes on, every line is written or counted,
    /// and the count stands in the log itself.
    #[test]
    fn a_stalled_reader_costs_lines_that_are_counted_and_nobody_waits() {
        let (output, reader) = start();
        let line = [b"x".repeat(999), b"\n".to_vec()].concat();
        for _ in 0..10_000 {
            output.push(&line);
        }
        let dropped = output.dropped();
        assert!(dropped > 8_000, "only a megabyte is kept: {dropped} dropped");
        assert!(output.counts.waiting_bytes.load(Ordering::Relaxed) <= BYTES_MAX);
        let begun = Instant::now();
        output.finish(Duration::from_millis(50));
        assert!(begun.elapsed() < PATIENCE, "a process ends although nobody reads");

        let reading = std::thread::spawn(move || {
            BufReader::new(reader).lines().map(Result::unwrap).collect::<Vec<_>>()
        });
        output.finish(PATIENCE);
        let all = output.dropped();
        drop(output);
        let lines = reading.join().unwrap();
        let (reports, written): (Vec<&String>, Vec<&String>) =
            lines.iter().partition(|line| line.ends_with("were dropped"));
        // The first may come in the middle, if the thread begins to write when lines are dropped already.
        let told = |line: &&String| line.split(' ').next()?.parse::<u64>().ok();
        assert_eq!(reports.iter().filter_map(told).sum::<u64>(), all, "{reports:?}");
        assert!((1..=2).contains(&reports.len()), "{reports:?}");
        assert_eq!(u64::try_from(written.len()).unwrap() + all, 10_000);
    }

    /// A target that fails while it is told to, in the middle of a line.
    struct Failing(PipeWriterAndSwitch);
    struct PipeWriterAndSwitch {
        pipe: io::PipeWriter,
        is_broken: Arc<std::sync::atomic::AtomicBool>,
        halved: bool,
    }

    impl Write for Failing {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let target = &mut self.0;
            if !target.is_broken.load(Ordering::Relaxed) {
                target.halved = false;
                return target.pipe.write(bytes);
            }
            if target.halved {
                return Err(io::ErrorKind::StorageFull.into());
            }
            target.halved = true;
            target.pipe.write(&bytes[..bytes.len() / 2])
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_costs_the_lines_of_that_time_only() {
        let (reader, pipe) = pipe().unwrap();
        let is_broken = Arc::new(std::sync::atomic::AtomicBool::new(true));
        let target = PipeWriterAndSwitch { pipe, is_broken: Arc::clone(&is_broken), halved: false };
        let report = |count| format!("dropped {count}\n");
        let output = Output::start("log", Failing(target), report).unwrap();
        output.push(b"first line\n");
        output.push(b"second line\n");
        output.finish(PATIENCE);
        assert_eq!(output.dropped(), 2);
        is_broken.store(false, Ordering::Relaxed);
        output.push(b"third line\n");
        output.finish(PATIENCE);
        drop(output);
        let lines: Vec<String> = BufReader::new(reader).lines().map(Result::unwrap).collect();
        assert_eq!(lines, ["first", "third line", "dropped 2"]);
    }

    #[test]
    fn a_reader_that_is_gone_harms_nobody() {
        let (output, reader) = start();
        drop(reader);
        for _ in 0..10 {
            output.push(b"nobody reads this\n");
        }
        output.finish(PATIENCE);
        assert_eq!(output.dropped(), 10);
    }
}
