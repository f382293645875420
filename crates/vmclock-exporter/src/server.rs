// SPDX-License-Identifier: MIT OR Apache-2.0
//! HTTP, bounded: a connection has one request and ends after 10 s at the latest, there are 64 at most, a head is 16 KiB
//! at most, and no body is read. All documents are shared, not copied.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{mpsc, Arc};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::{oneshot, Notify};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use crate::metrics::Format;
use crate::page::Page;
use crate::poller::{Document, Served, Wish};
use crate::ExporterError;

/// How many connections there are at most. One more, and the oldest is closed.
const MOST_CONNECTIONS: usize = 64;
/// How long a client may take for the head of its request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may last, with the answer.
const LONGEST: Duration = Duration::from_secs(10);
/// How long a document may take.
const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest head of a request, in bytes, and how many fields it may have.
const LONGEST_HEAD: usize = 16 * 1024;
const MOST_FIELDS: usize = 64;
/// How long it waits where the system has no file descriptor for a new connection.
const PAUSE: Duration = Duration::from_millis(100);

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const PATHS: &str = "there are /, /metrics, /status.json, /history.json and /recent.json\n";

/// What all connections need.
struct Shared {
    page: Page,
    wishes: mpsc::Sender<Wish>,
    /// Names of hosts are refused: only this machine can ask, and a web site must not have its browser do so under the
    /// site's own name.
    is_local: bool,
}

/// Serves until it is stopped. `dropped` counts connections that were closed for others.
pub(crate) fn serve(
    listener: TcpListener,
    address: SocketAddr,
    wishes: mpsc::Sender<Wish>,
    dropped: Arc<AtomicU64>,
    stop: &Notify,
) -> Result<(), ExporterError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| ExporterError::Io { doing: "wait for clients", error })?;
    let shared = Arc::new(Shared { page: Page::new(), wishes, is_local: address.ip().is_loopback() });
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener);
        let listener = listener.map_err(|error| ExporterError::Listen { address, error })?;
        // Dropping the runtime ends it, and all connections.
        tokio::spawn(accept(listener, shared, dropped));
        stop.notified().await;
        Ok(())
    })
}

async fn accept(listener: tokio::net::TcpListener, shared: Arc<Shared>, dropped: Arc<AtomicU64>) {
    let mut connections: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // The client is gone already, or there is no file descriptor for it now.
            sleep(PAUSE).await;
            continue;
        };
        connections.retain(|connection| !connection.is_finished());
        if connections.len() >= MOST_CONNECTIONS {
            if let Some(oldest) = connections.pop_front() {
                oldest.abort();
                dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
        connections.push_back(tokio::spawn(connection(stream, shared.clone())).abort_handle());
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    let service = service_fn(move |request| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(answer(&request, &shared).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).keep_alive(false);
    http.max_buf_size(LONGEST_HEAD).max_headers(MOST_FIELDS);
    // What went wrong with a client concerns the client, which was told or is gone.
    let _ = timeout(LONGEST, http.serve_connection(TokioIo::new(stream), service)).await;
}

async fn answer(request: &Request<Incoming>, shared: &Shared) -> Response<Full<Bytes>> {
    let (fields, path) = (request.headers(), request.uri().path());
    if shared.is_local && !is_local_name(fields) {
        return response(
            StatusCode::MISDIRECTED_REQUEST,
            TEXT,
            "the exporter is asked at an address or as localhost, not at another name: set the field Host in the proxy\n",
        );
    }
    let document = match path {
        "/" => None,
        "/metrics" => Some(Document::Metrics(format(fields))),
        "/status.json" => Some(Document::Status),
        "/history.json" => Some(Document::History),
        "/recent.json" => Some(Document::Recent),
        _ => return response(StatusCode::NOT_FOUND, TEXT, PATHS),
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refusal = response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n");
        refusal.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    let Some(document) = document else { return page(&shared.page) };
    let kind = if let Document::Metrics(format) = document { format.content_type() } else { JSON };
    match wish(shared, document).await {
        Some(Served { is_available: true, body }) => response(StatusCode::OK, kind, body),
        Some(Served { body, .. }) => response(StatusCode::SERVICE_UNAVAILABLE, kind, body),
        None => response(StatusCode::SERVICE_UNAVAILABLE, TEXT, "the service takes too long\n"),
    }
}

async fn wish(shared: &Shared, document: Document) -> Option<Served> {
    let (reply, served) = oneshot::channel();
    shared.wishes.send(Wish { document, reply }).ok()?;
    timeout(DOCUMENT_TIMEOUT, served).await.ok()?.ok()
}

fn page(page: &Page) -> Response<Full<Bytes>> {
    let mut response = response(StatusCode::OK, "text/html; charset=utf-8", page.body());
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(page.policy()));
    response
}

fn response(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    fields.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    fields.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// Which format of metrics a client takes.
fn format(fields: &HeaderMap) -> Format {
    let accepted = fields.get_all(header::ACCEPT);
    let takes_open =
        |value: &HeaderValue| value.to_str().is_ok_and(|text| text.contains("application/openmetrics-text"));
    if accepted.iter().any(takes_open) {
        Format::Open
    } else {
        Format::Plain
    }
}

/// Whether the host that is asked is one that no other site can have: an address, `localhost`, or not stated.
fn is_local_name(fields: &HeaderMap) -> bool {
    let Some(host) = fields.get(header::HOST) else { return true };
    let Ok(host) = host.to_str() else { return false };
    if host.parse::<SocketAddr>().is_ok() {
        return true;
    }
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|digit| digit.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_web_site_cannot_ask_under_its_own_name() {
        let is_local = |host: &'static str| {
            let mut fields = HeaderMap::new();
            fields.insert(header::HOST, HeaderValue::from_static(host));
            is_local_name(&fields)
        };
        for host in ["localhost", "LOCALHOST:9977", "127.0.0.1", "127.0.0.1:9977", "[::1]:9977", "[::1]"] {
            assert!(is_local(host), "{host}");
        }
        for host in ["evil.example", "evil.example:9977", "localhost.evil.example", "127.0.0.1.evil.example", "", ":1"]
        {
            assert!(!is_local(host), "{host}");
        }
        assert!(is_local_name(&HeaderMap::new()));
    }
}
