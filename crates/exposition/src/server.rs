//! The HTTP endpoint: `/metrics` and `/health`.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener as AsyncListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};

use crate::accept::choose;
use crate::encode::encode;
use crate::failures::Failures;
use crate::source::Source;

/// The connections that are served at the same time. Others wait until one of them ends.
const MAX_CONNECTIONS: usize = 32;

/// A connection is closed after this time, whatever the client does.
const CONNECTION_TIME: Duration = Duration::from_secs(10);

/// The head of a request must be complete after this time.
const HEAD_TIME: Duration = Duration::from_secs(5);

/// The longest head of a request in bytes, and the number of its headers.
const MAX_HEAD_BYTES: usize = 16 << 10;
const MAX_HEADERS: usize = 64;

/// The pause after a connection could not be accepted, or the port is in use.
const RETRY_PAUSE: Duration = Duration::from_secs(5);

/// Serves metrics until it is dropped, from a thread of its own.
#[derive(Debug)]
pub(crate) struct Server {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves at `listener`, or at `address` as soon as that is free.
    ///
    /// # Errors
    /// If the system provides no thread.
    pub(crate) fn start(
        listener: Option<TcpListener>,
        address: SocketAddr,
        source: Arc<dyn Source>,
        failures: Failures,
    ) -> std::io::Result<Self> {
        // Made here, so that its failure is the caller's and the thread has none.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let serve = move || {
            runtime.block_on(async move {
                tokio::select! {
                    () = serve(listener, address, source, failures) => {}
                    _ = stopped => {}
                }
            });
        };
        let thread = std::thread::Builder::new().name("metrics".into()).spawn(serve)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Server {
    /// Closes all connections and frees the port.
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // The thread only waits for clients, and does not wait for them now.
            let _ = thread.join();
        }
    }
}

/// Accepts connections for ever.
async fn serve(listener: Option<TcpListener>, address: SocketAddr, source: Arc<dyn Source>, failures: Failures) {
    let listener = listen(listener, address, &failures).await;
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let source = Arc::clone(&source);
                tokio::spawn(async move {
                    // Clients that are too slow, or that speak no HTTP, are their own problem.
                    let _ = tokio::time::timeout(CONNECTION_TIME, answer(stream, source)).await;
                    drop(place);
                });
            }
            Err(error) => {
                failures.add(&format!("{address}: a connection for metrics cannot be accepted: {error}"));
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }
}

/// Returns the listener, as soon as the address is free.
async fn listen(mut given: Option<TcpListener>, address: SocketAddr, failures: &Failures) -> AsyncListener {
    loop {
        let listener = given.take().map_or_else(|| bind(address), Ok);
        match listener.and_then(AsyncListener::from_std) {
            Ok(listener) => return listener,
            Err(error) => failures.add(&format!("{address}: {error}; metrics are not served there until it is free")),
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// Listens at an address.
///
/// # Errors
/// If the address is in use, does not belong to this machine, or may not be used.
pub(crate) fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

async fn answer(stream: TcpStream, source: Arc<dyn Source>) -> Result<(), hyper::Error> {
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let response = respond(&request, &*source);
        async move { Ok::<_, Infallible>(response) }
    });
    http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

fn respond<B>(request: &Request<B>, source: &dyn Source) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET and HEAD\n".to_owned());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/metrics" => {
            let accepted = request.headers().get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
            let format = choose(accepted);
            text(StatusCode::OK, format.media_type(), encode(&source.table(), format))
        }
        "/health" => {
            let health = source.health();
            let status = if health.is_healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            text(status, "application/json", format!("{:#}\n", health.details))
        }
        "/" => text(StatusCode::OK, "text/plain", "/metrics\n/health\n".to_owned()),
        _ => text(StatusCode::NOT_FOUND, "text/plain", "there are /metrics and /health\n".to_owned()),
    }
}

fn text(status: StatusCode, media_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
