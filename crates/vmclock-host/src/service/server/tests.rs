// SPDX-License-Identifier: MIT OR Apache-2.0
use std::io::{BufRead, BufReader, IoSlice, Read};
use std::sync::Barrier;

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::net::{sendmsg, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use super::*;

struct Place {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("control");
        Self { _folder: folder, path }
    }

    fn listen(&self) -> Server {
        Server::listen(&self.path, None).expect("listens")
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.path).expect("connects")
    }
}

/// Answers each line with itself and the number of its file descriptors.
#[allow(clippy::needless_pass_by_value)] // as a handler takes them
fn echo(_: Peer, line: &str, descriptors: Vec<OwnedFd>) -> Reply {
    let mut reply = Reply::line(format!("{line} {}\n", descriptors.len()));
    (reply.subscribes, reply.closes) = (line == "subscribe", line == "close");
    reply
}

/// Serves until there is nothing more to do.
fn serve(server: &mut Server) {
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    while server.serve(usize::MAX, echo)
        || poll(&mut [PollFd::from_borrowed_fd(server.fd(), PollFlags::IN)], Some(&at_once)) == Ok(1)
    {}
}

/// A file descriptor to pass, and whether all of its copies are closed.
fn watched() -> (OwnedFd, impl Fn() -> bool) {
    let (read, write) = rustix::pipe::pipe().expect("a pipe");
    rustix::fs::fcntl_setfl(&read, rustix::fs::OFlags::NONBLOCK).expect("set");
    (write, move || rustix::io::read(&read, &mut [0; 1]) == Ok(0))
}

fn line_of(client: &UnixStream) -> String {
    let mut line = String::new();
    // One byte at a time: what follows is for the next call.
    let mut client = BufReader::with_capacity(1, client);
    client.read_line(&mut line).expect("a line");
    line
}

fn send(client: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(descriptors.is_empty() || ancillary.push(SendAncillaryMessage::ScmRights(descriptors)));
    sendmsg(client, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL).expect("sent");
}

#[test]
fn requests_are_answered_in_order_however_they_arrive() {
    let place = Place::new();
    let mut server = place.listen();
    let mut client = place.connect();
    client.write_all(b"one\ntwo\nthr").expect("sent");
    serve(&mut server);
    assert_eq!((line_of(&client), line_of(&client)), ("one 0\n".into(), "two 0\n".into()));
    client.write_all(b"ee\nclose\nfour\n").expect("sent");
    serve(&mut server);
    let mut rest = String::new();
    client.read_to_string(&mut rest).expect("the end");
    assert_eq!(rest, "three 0\nclose 0\n");
    assert_eq!(server.clients(), 0);
}

#[test]
fn descriptors_come_with_their_request_and_are_closed_with_it() {
    let place = Place::new();
    let mut server = place.listen();
    let client = place.connect();
    let (passed, is_closed) = watched();
    send(&client, b"one\n", &[passed.as_fd(), passed.as_fd()]);
    send(&client, b"two\n", &[passed.as_fd()]);
    serve(&mut server);
    assert_eq!((line_of(&client), line_of(&client)), ("one 2\n".into(), "two 1\n".into()));
    drop(passed);
    assert!(is_closed());
    // More than any request takes, and a connection that ends before its line does.
    let (passed, is_closed) = watched();
    send(&client, b"three\n", &[passed.as_fd(); 8]);
    let other = place.connect();
    send(&other, b"fo", &[passed.as_fd()]);
    drop(passed);
    serve(&mut server);
    assert_eq!(server.clients(), 1, "who floods is dropped");
    assert!(!is_closed());
    drop(other);
    serve(&mut server);
    assert!(server.clients() == 0 && is_closed());
}

#[test]
fn descriptors_go_to_no_earlier_line_that_brought_none() {
    let place = Place::new();
    let mut server = place.listen();
    let client = place.connect();
    let (descriptor, is_closed) = watched();
    // Linux gives all of this at once.
    send(&client, b"first\nsecond\n", &[]);
    send(&client, b"third ", &[descriptor.as_fd()]);
    send(&client, b"line\nfourth\n", &[]);
    drop(descriptor);
    serve(&mut server);
    let lines: Vec<_> = (0..4).map(|_| line_of(&client)).collect();
    assert_eq!(lines, ["first 0\n", "second 0\n", "third line 1\n", "fourth 0\n"]);
    assert!(is_closed());
}

#[test]
fn who_does_not_read_is_not_answered_for_ever() {
    let place = Place::new();
    let mut server = place.listen();
    server.most_unread = [1 << 20; 2];
    let answer = format!("{}\n", "x".repeat(1 << 19));
    let mut clients: Vec<_> = (0..20).map(|_| place.connect()).collect();
    for client in &mut clients {
        client.write_all(b"how long\n").expect("sent");
    }
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    while server.serve(usize::MAX, |_, _, _| Reply::line(answer.clone()))
        || poll(&mut [PollFd::from_borrowed_fd(server.fd(), PollFlags::IN)], Some(&at_once)) == Ok(1)
    {}
    assert!((2..10).contains(&server.clients()), "{}", server.clients());
    // Whoever reads is answered.
    let reading = std::thread::spawn(move || clients.iter().map(|client| line_of(client).len()).max());
    while !reading.is_finished() {
        server.serve(usize::MAX, echo);
    }
    assert_eq!(reading.join().expect("no panic"), Some(answer.len()));
}

#[test]
fn rude_clients_hold_up_nobody() {
    let place = Place::new();
    let mut server = place.listen();
    let mut silent = place.connect();
    silent.write_all(b"unfinished").expect("sent");
    let flood = place.connect();
    flood.set_nonblocking(true).expect("set");
    while (&flood).write(&[b'x'; 1000]).is_ok() {
        serve(&mut server);
    }
    // Asks all the time, and reads nothing.
    let deaf = place.connect();
    deaf.set_nonblocking(true).expect("set");
    let long = [&[b'y'; LONGEST_LINE / 2][..], b"\n"].concat();
    let mut asked = 0;
    while (&deaf).write(&long).is_ok() {
        serve(&mut server);
        asked += 1;
        assert!(asked < 10_000, "what it asks for is read without end");
    }
    let mut polite = place.connect();
    polite.write_all(b"hello\n").expect("sent");
    serve(&mut server);
    assert_eq!(line_of(&polite), "hello 0\n");
    assert_eq!(server.clients(), 3, "the flood is gone");
}

#[test]
fn a_request_is_served_in_its_turn() {
    let place = Place::new();
    let mut server = place.listen();
    let (mut busy, mut other) = (place.connect(), place.connect());
    busy.write_all(&b"busy\n".repeat(100)).expect("sent");
    other.write_all(b"other\n").expect("sent");
    assert!(server.serve(1, echo) && server.serve(1, echo), "there is more");
    assert_eq!((line_of(&busy), line_of(&other)), ("busy 0\n".into(), "other 0\n".into()));
}

#[test]
fn subscribers_get_what_is_published_and_slow_ones_are_cut_off() {
    let place = Place::new();
    let mut server = place.listen();
    let (mut reader, mut slow, mut other) = (place.connect(), place.connect(), place.connect());
    for client in [&mut reader, &mut slow] {
        client.write_all(b"subscribe\n").expect("sent");
    }
    other.write_all(b"ask\n").expect("sent");
    serve(&mut server);
    assert_eq!(line_of(&reader), "subscribe 0\n");
    let event = format!("{}\n", "e".repeat(1000));
    let mut published = 0;
    while !server.connections.values().any(|connection| connection.closes) {
        server.publish(&event);
        published += 1;
        assert_eq!(line_of(&reader), event);
        assert!(published < 100_000, "the slow one is waited for without end");
    }
    let mut rest = String::new();
    let reading = std::thread::spawn(move || slow.read_to_string(&mut rest).map(|_| rest));
    while server.clients() == 3 {
        serve(&mut server);
    }
    let rest = reading.join().expect("no panic").expect("the end");
    assert!(rest.ends_with("\"text\":\"too slow: events were lost\"}\n"), "{}", &rest[rest.len() - 100..]);
    assert_eq!(line_of(&other), "ask 0\n");
}

#[test]
fn of_services_that_start_at_once_one_has_the_socket() {
    const SERVICES: usize = 4;
    let place = Place::new();
    for _ in 0..200 {
        // What a killed one leaves.
        drop(UnixListener::bind(&place.path).expect("bound"));
        let start = Barrier::new(SERVICES);
        let results: Vec<_> = std::thread::scope(|scope| {
            let service = || {
                start.wait();
                Server::listen(&place.path, None)
            };
            let all: Vec<_> = (0..SERVICES).map(|_| scope.spawn(service)).collect();
            all.into_iter().map(|service| service.join().expect("no panic")).collect()
        });
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
        for error in results.iter().filter_map(|result| result.as_ref().err()) {
            assert!(matches!(error, ServerError::InUse { .. }), "{error}");
        }
        place.connect();
        drop(results);
        assert!(!place.path.exists(), "removed by the one that had it");
    }
}

#[test]
fn what_is_not_ours_stays() {
    let place = Place::new();
    let error = |path: &Path| Server::listen(path, None).expect_err("refused").to_string();
    // Of a program that has no lock.
    let other = UnixListener::bind(&place.path).expect("bound");
    assert!(error(&place.path).contains("another publisher listens here"));
    drop(other);
    let file = place.path.with_file_name("file");
    std::fs::write(&file, "precious").expect("written");
    assert!(error(&file).contains("in the way"));
    assert_eq!(std::fs::read_to_string(&file).expect("there"), "precious");
    let without_folder = error(&place.path.with_file_name("no").join("control"));
    assert!(without_folder.contains("no/control") && without_folder.contains("create it"), "{without_folder}");
    // The socket of a successor, after ours was removed.
    let server = place.listen();
    std::fs::remove_file(&place.path).expect("removed");
    let successor = UnixListener::bind(&place.path).expect("bound");
    drop(server);
    assert!(place.path.exists());
    drop(successor);
}

#[test]
fn the_socket_is_for_its_owner_and_a_group() {
    let place = Place::new();
    let mode = || std::fs::symlink_metadata(&place.path).expect("there").mode() & 0o777;
    let server = place.listen();
    assert_eq!(mode(), 0o600);
    drop(server);
    let own = rustix::process::getegid().as_raw();
    let _server = Server::listen(&place.path, Some(own)).expect("listens");
    assert_eq!(mode(), 0o660);
    assert_eq!(std::fs::symlink_metadata(&place.path).expect("there").gid(), own);
}
