//! The load generator: one thread, one epoll, a slab of subscribers and a few callers, one read
//! buffer for all. Scenarios call [`Swarm::turn`] and look at what has come in since.
//! Never blocks longer than a turn, and never waits without a deadline.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use slab::Slab;
use socket2::{Domain, Protocol, Socket, Type};

use crate::arrivals::Arrivals;
use crate::caller::{Answer, Caller};
use crate::fault::{Context, Fault, Outcome, failed};
use crate::stop::{LOOK_EVERY, Stop};
use crate::subscriber::{Reply, Script, Spread, Subscriber};

/// The most connections from one source address; the kernel has some 28,000 ports for each by default.
const PER_SOURCE: u32 = 25_000;
/// 127.0.0.1 to 127.0.0.250, then from the start: old ports are free again by then.
const SOURCES: u32 = 250;
const READ_BUFFER_BYTES: usize = 64 * 1024;
const EVENTS_PER_TURN: usize = 1024;
/// As over Ethernet. A segment over loopback has 64 KB, more than the server's send buffer: a long
/// answer would wait for a delayed acknowledgement, 40 ms, again and again.
const CALLER_SEGMENT_BYTES: u32 = 1460;
/// Callers' tokens lie above every slab key.
const CALLER_TOKEN: usize = 1 << 40;

/// Everything but the poller, so that events can be walked while this changes.
#[derive(Debug)]
struct World {
    script: Script,
    subscribers: Slab<Subscriber>,
    callers: Vec<Caller>,
    arrivals: Arrivals,
    answers: Vec<Answer>,
    buffer: Vec<u8>,
    /// The first thing that went wrong; a run with one is over.
    fault: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Swarm {
    poll: Poll,
    events: Events,
    world: World,
    target: SocketAddr,
    stop: Stop,
    /// Connections ever opened, which spreads them over source addresses.
    opened: u32,
    /// Where to look first for a caller that awaits no answer.
    next_caller: usize,
    /// How long the swarm waits for anything that makes no progress.
    stall_timeout: Duration,
}

impl Swarm {
    pub(crate) fn new(
        target: SocketAddr,
        script: Script,
        stop: Stop,
        stall_timeout: Duration,
    ) -> Outcome<Self> {
        Ok(Self {
            poll: Poll::new().context("cannot create an epoll")?,
            events: Events::with_capacity(EVENTS_PER_TURN),
            world: World {
                script,
                subscribers: Slab::new(),
                callers: Vec::new(),
                arrivals: Arrivals::default(),
                answers: Vec::new(),
                buffer: vec![0; READ_BUFFER_BYTES],
                fault: None,
            },
            target,
            stop,
            opened: 0,
            next_caller: 0,
            stall_timeout,
        })
    }

    pub(crate) fn arrivals(&mut self) -> &mut Arrivals {
        &mut self.world.arrivals
    }

    /// More channels than one, or channels of their own, for those that connect from now on.
    pub(crate) const fn spread_with(&mut self, spread: Spread) {
        self.world.script.spread = spread;
    }

    /// What subscribers send in answer to each notification from now on.
    pub(crate) fn reply_with(&mut self, reply: Reply) {
        self.world.script.reply = reply;
    }

    /// Answers to publishes since this was last asked.
    pub(crate) fn take_answers(&mut self) -> Vec<Answer> {
        std::mem::take(&mut self.world.answers)
    }

    /// Subscribers connected or on their way.
    pub(crate) fn len(&self) -> usize {
        self.world.subscribers.len()
    }

    /// Handles what has arrived, waiting for it `wait` at most.
    pub(crate) fn turn(&mut self, wait: Duration) -> Outcome<()> {
        self.stop.check()?;
        match self.poll.poll(&mut self.events, Some(wait.min(LOOK_EVERY))) {
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => {
                return Err(error).context("epoll");
            }
            _ => {}
        }
        for event in &self.events {
            self.world.handle(event);
        }
        match self.world.fault.take() {
            Some(why) => failed(why),
            None => Ok(()),
        }
    }

    /// Turns until `done` says so; fails if `progress` does not change for longer than the stall timeout.
    pub(crate) fn turn_until(
        &mut self,
        what: &str,
        mut progress: impl FnMut(&mut Self) -> Outcome<(u64, bool)>,
    ) -> Outcome<()> {
        let (mut last, mut moved) = (u64::MAX, Instant::now());
        loop {
            let (now, done) = progress(self)?;
            if done {
                return Ok(());
            }
            if now != last {
                (last, moved) = (now, Instant::now());
            } else if moved.elapsed() > self.stall_timeout {
                let waited = self.stall_timeout.as_secs();
                return failed(format!("{what}: nothing for {waited} s (stands at {now})"));
            }
            self.turn(LOOK_EVERY)?;
        }
    }

    pub(crate) fn run_for(&mut self, time: Duration) -> Outcome<()> {
        let until = Instant::now() + time;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            self.turn(left.max(Duration::from_millis(1)))?;
        }
        Ok(())
    }

    /// Connects the users `first..first + count`, `at_once` handshakes under way at a time, and
    /// returns when all are subscribed.
    pub(crate) fn connect_all(&mut self, first: u32, count: u32, at_once: u32) -> Outcome<()> {
        let start = self.world.arrivals.ready;
        let mut started = 0;
        self.turn_until("connecting", |swarm| {
            let ready = swarm.world.arrivals.ready - start;
            while started < count && u64::from(started) - ready < u64::from(at_once) {
                swarm.connect(first + started)?;
                started += 1;
            }
            Ok((ready, ready >= u64::from(count)))
        })
    }

    /// Starts to connect user `number`.
    pub(crate) fn connect(&mut self, number: u32) -> Outcome<()> {
        let stream = self.open(None)?;
        let transport = self.world.script.transport;
        let entry = self.world.subscribers.vacant_entry();
        let token = Token(entry.key());
        let subscriber = entry.insert(Subscriber::new(stream, transport, number));
        self.poll
            .registry()
            .register(subscriber.stream_mut(), token, Interest::READABLE | Interest::WRITABLE)
            .context("cannot watch a socket")
    }

    pub(crate) fn add_callers(&mut self, count: usize) -> Outcome<()> {
        for _ in 0..count {
            let mut caller = Caller::new(self.open(Some(CALLER_SEGMENT_BYTES))?);
            let token = Token(CALLER_TOKEN + self.world.callers.len());
            self.poll
                .registry()
                .register(caller.stream_mut(), token, Interest::READABLE | Interest::WRITABLE)
                .context("cannot watch a caller's socket")?;
            self.world.callers.push(caller);
        }
        self.turn_until("connecting callers", |swarm| {
            let idle = swarm.world.callers.iter().filter(|caller| caller.idle()).count();
            Ok((idle as u64, idle == swarm.world.callers.len()))
        })
    }

    pub(crate) fn post(&mut self, caller: usize, request: &[u8]) -> Outcome<()> {
        match self.world.callers.get_mut(caller) {
            Some(caller) => caller.post(request).map_err(Fault::Failed),
            None => failed(format!("no caller {caller}")),
        }
    }

    /// A caller that awaits no answer. All have their turn: one that is never used would be closed.
    pub(crate) fn idle_caller(&mut self) -> Option<usize> {
        let callers = &self.world.callers;
        let from = self.next_caller;
        let mut order = (from..callers.len()).chain(0..from.min(callers.len()));
        let found = order.find(|at| callers.get(*at).is_some_and(Caller::idle))?;
        self.next_caller = found + 1;
        Some(found)
    }

    /// Takes it from now on that the gateway refuses publishes for want of room.
    pub(crate) fn allow_refusals(&mut self) {
        self.world.callers.iter_mut().for_each(Caller::allow_refusals);
    }

    /// Ends the connection in slab place `place`, if a subscribed one is there: in good order, or by
    /// dropping the socket. Returns its user.
    pub(crate) fn disconnect(&mut self, place: usize, in_order: bool) -> Outcome<Option<u32>> {
        let Some(subscriber) = self.world.subscribers.get_mut(place) else { return Ok(None) };
        if !subscriber.ready() {
            return Ok(None);
        }
        let number = subscriber.number();
        if in_order {
            subscriber.close().map_err(Fault::Failed)?;
        } else {
            drop(self.world.subscribers.remove(place));
        }
        Ok(Some(number))
    }

    /// One past the highest slab place in use, or ever used.
    pub(crate) fn places(&self) -> usize {
        self.world.subscribers.capacity()
    }

    pub(crate) fn drop_subscribers(&mut self) {
        self.world.subscribers.clear();
    }

    /// A non-blocking socket on its way to the target.
    fn open(&mut self, segment_bytes: Option<u32>) -> Outcome<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), Some(Protocol::TCP))
            .context("cannot open a socket (is the open-file limit too low?)")?;
        let source = (self.opened / PER_SOURCE) % SOURCES;
        self.opened = self.opened.wrapping_add(1);
        if source > 0 {
            let address = Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + source);
            let address = SocketAddr::new(IpAddr::V4(address), 0);
            socket.bind(&address.into()).context("cannot bind a source address")?;
        }
        socket.set_tcp_nodelay(true).context("TCP_NODELAY")?;
        if let Some(bytes) = segment_bytes {
            socket.set_tcp_mss(bytes).context("TCP_MAXSEG")?;
        }
        match socket.connect(&self.target.into()) {
            Ok(()) => {}
            Err(error)
                if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
            Err(error) => return Err(error).context("cannot connect"),
        }
        Ok(TcpStream::from_std(socket.into()))
    }
}

impl World {
    fn handle(&mut self, event: &Event) {
        let Token(at) = event.token();
        let handled = match at.checked_sub(CALLER_TOKEN) {
            Some(caller) => self.handle_caller(caller, event),
            None => self.handle_subscriber(at, event),
        };
        if let (Err(why), None) = (handled, &self.fault) {
            self.fault = Some(why);
        }
    }

    fn handle_caller(&mut self, at: usize, event: &Event) -> Result<(), String> {
        let Some(caller) = self.callers.get_mut(at) else { return Ok(()) };
        if event.is_writable() {
            caller.on_writable()?;
        }
        if event.is_readable() {
            caller.on_readable(at, &mut self.buffer, &mut self.answers)?;
        }
        Ok(())
    }

    fn handle_subscriber(&mut self, at: usize, event: &Event) -> Result<(), String> {
        let Some(subscriber) = self.subscribers.get_mut(at) else { return Ok(()) };
        let number = subscriber.number();
        let name = |why: String| format!("user u{number}: {why}");
        if event.is_writable() {
            subscriber.on_writable(&self.script).map_err(name)?;
        }
        if event.is_readable() {
            let open = subscriber
                .on_readable(
                    event.is_read_closed(),
                    &mut self.buffer,
                    &self.script,
                    &mut self.arrivals,
                )
                .map_err(name)?;
            if !open {
                let expected = subscriber.closing();
                drop(self.subscribers.remove(at));
                if !expected {
                    return Err(name("the server closed the connection".to_owned()));
                }
            }
        }
        Ok(())
    }
}
