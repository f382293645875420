// SPDX-License-Identifier: MIT OR Apache-2.0
//! QMP, the protocol of QEMU's monitor: a JSON object a line, in both directions.
//!
//! Done by hand, as what matters here is what general clients hide: the host's counter when a command was sent and when
//! its answer was received, QEMU's time stamp of an event, and the order of answers and events.

use serde_json::{json, Value};

use crate::error::Error;
use crate::machine::{Answer, Input, Request};

/// The longest line. A QEMU that was taken over by its guest may send what it likes.
const LONGEST: usize = 4 << 20;

/// What QEMU sends.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Message {
    Greeting,
    Event(Event),
    /// To the command of this number; without one, to a command that QEMU did not understand.
    Answer {
        id: Option<u64>,
        result: Result<Value, String>,
    },
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    name: String,
    data: Value,
    /// In nanoseconds of UTC since 1970, rounded down to a microsecond.
    pub(crate) stamp: Option<i128>,
}

impl Event {
    /// What it means for a guest whose host's counter was `emitted` at the event's time stamp. `None` for all the
    /// events that don't matter here.
    pub(crate) fn input(&self, emitted: u64) -> Option<Input> {
        let word = |key: &str| self.data[key].as_str().unwrap_or("unknown").to_owned();
        Some(match self.name.as_str() {
            "STOP" => Input::Stopped,
            "RESUME" => Input::Resumed { emitted },
            "RESET" => Input::Reset { reason: word("reason") },
            "SHUTDOWN" => Input::Shutdown { reason: word("reason") },
            "MIGRATION" => Input::Migration { status: word("status") },
            _ => return None,
        })
    }
}

/// The bytes that QEMU sends, made messages.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    bytes: Vec<u8>,
    /// So many of them have no line feed.
    searched: usize,
}

impl Lines {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next message, if it is complete.
    pub(crate) fn next(&mut self) -> Result<Option<Message>, Error> {
        while let Some(end) = self.bytes[self.searched..].iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.bytes.drain(..=self.searched + end).collect();
            self.searched = 0;
            let value: Value = serde_json::from_slice(&line)
                .map_err(|_| Error::NotQmp(String::from_utf8_lossy(&line).trim_end().into()))?;
            if let Some(message) = message(value) {
                return Ok(Some(message));
            }
        }
        self.searched = self.bytes.len();
        if self.searched > LONGEST {
            return Err(Error::LineTooLong(LONGEST));
        }
        Ok(None)
    }
}

fn message(mut value: Value) -> Option<Message> {
    let id = value["id"].as_u64();
    if let Some(name) = value["event"].as_str() {
        let part = |key: &str| value["timestamp"][key].as_i64().map(i128::from);
        let stamp =
            part("seconds").zip(part("microseconds")).map(|(seconds, micros)| seconds * 1_000_000_000 + micros * 1_000);
        return Some(Message::Event(Event { name: name.into(), data: value["data"].clone(), stamp }));
    }
    if let Some(error) = value.get("error") {
        let reason = error["desc"].as_str().unwrap_or("without a reason").into();
        return Some(Message::Answer { id, result: Err(reason) });
    }
    if let Some(returned) = value.get_mut("return") {
        return Some(Message::Answer { id, result: Ok(returned.take()) });
    }
    value.get("QMP").map(|_| Message::Greeting)
}

/// The line of a command.
pub(crate) fn line(id: u64, name: &str, arguments: &Value) -> String {
    let mut command = json!({"execute": name, "id": id});
    if !arguments.is_null() {
        command["arguments"] = arguments.clone();
    }
    format!("{command}\n")
}

/// A request's command and its arguments. QEMU writes its device state to the file `state`.
pub(crate) fn command(request: &Request, state: &str) -> (&'static str, Value) {
    match request {
        Request::Status => ("query-status", Value::Null),
        Request::DeviceState => ("xen-save-devices-state", json!({"filename": state, "live": false})),
        Request::Continue => ("cont", Value::Null),
        Request::MigrateIncoming(uri) => {
            let arguments = match serde_json::from_str::<Value>(uri) {
                Ok(address) if address.is_object() => json!({"channels": [{"channel-type": "main", "addr": address}]}),
                _ => json!({"uri": uri}),
            };
            ("migrate-incoming", arguments)
        }
        Request::MigrationInfo => ("query-migrate", Value::Null),
    }
}

/// What a request's answer means, but for the device state, which is in a file.
pub(crate) fn answer(request: &Request, value: &Value) -> Answer {
    match request {
        Request::Status => Answer::Status(value["status"].as_str().unwrap_or("unknown").into()),
        Request::MigrationInfo => {
            Answer::Listens(value["socket-address"].as_array().is_some_and(|addresses| !addresses.is_empty()))
        }
        Request::DeviceState | Request::Continue | Request::MigrateIncoming(_) => Answer::Done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(text: &str) -> Vec<Message> {
        let mut lines = Lines::default();
        // However it is cut.
        text.as_bytes()
            .chunks(7)
            .flat_map(|chunk| {
                lines.push(chunk);
                std::iter::from_fn(|| lines.next().expect("QMP")).collect::<Vec<_>>()
            })
            .collect()
    }

    #[test]
    fn messages_in_their_order() {
        let all = messages(concat!(
            "{\"QMP\": {\"version\": {}}}\r\n",
            "{\"event\": \"STOP\", \"timestamp\": {\"seconds\": 1, \"microseconds\": 2}}\r\n",
            "{\"something\": \"else\"}\r\n",
            "{\"return\": {\"running\": false}, \"id\": 2}\r\n",
            "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no such thing\"}, \"id\": 3}\n",
            "{\"error\": {}}\n{\"return",
        ));
        let stop = Event { name: "STOP".into(), data: Value::Null, stamp: Some(1_000_002_000) };
        assert_eq!(
            all,
            [
                Message::Greeting,
                Message::Event(stop),
                Message::Answer { id: Some(2), result: Ok(json!({"running": false})) },
                Message::Answer { id: Some(3), result: Err("no such thing".into()) },
                Message::Answer { id: None, result: Err("without a reason".into()) },
            ]
        );
    }

    #[test]
    fn what_is_not_qmp_is_an_error() {
        let mut lines = Lines::default();
        lines.push(b"QEMU 10.0.3 monitor - type 'help' for more information\r\n");
        let error = lines.next().expect_err("people's monitor").to_string();
        assert!(error.contains("monitor - type 'help'") && error.contains("mode=control"), "{error}");
        lines.push(&vec![b'x'; LONGEST + 1]);
        assert!(matches!(lines.next(), Err(Error::LineTooLong(_))));
    }

    #[test]
    fn events_that_matter_and_others() {
        for (text, input) in [
            ("{\"event\": \"RESUME\"}\n", Some(Input::Resumed { emitted: 5 })),
            ("{\"event\": \"RESET\", \"data\": {\"reason\": \"a\"}}\n", Some(Input::Reset { reason: "a".into() })),
            ("{\"event\": \"SHUTDOWN\"}\n", Some(Input::Shutdown { reason: "unknown".into() })),
            ("{\"event\": \"RTC_CHANGE\", \"data\": {\"offset\": 1}}\n", None),
        ] {
            let [Message::Event(event)] = &messages(text)[..] else { panic!("{text}") };
            assert_eq!(event.input(5), input, "{text}");
        }
    }

    #[test]
    fn commands() {
        let incoming = |uri: &str| command(&Request::MigrateIncoming(uri.into()), "").1;
        assert_eq!(incoming("tcp:0:4444"), json!({"uri": "tcp:0:4444"}));
        let address = json!({"transport": "file", "filename": "/snap"});
        assert_eq!(incoming(&address.to_string())["channels"][0]["addr"], address);
        let (name, arguments) = command(&Request::DeviceState, "/tmp/s");
        assert_eq!(line(7, name, &arguments).matches("\"/tmp/s\"").count(), 1);
        assert_eq!(line(7, "cont", &Value::Null), "{\"execute\":\"cont\",\"id\":7}\n");
        for (value, listens) in
            [(json!({"socket-address": [{}]}), true), (json!({"socket-address": []}), false), (json!({}), false)]
        {
            assert_eq!(answer(&Request::MigrationInfo, &value), Answer::Listens(listens));
        }
        assert_eq!(answer(&Request::Status, &json!({"status": "paused"})), Answer::Status("paused".into()));
    }
}
