//! Real processes: started, read, signalled and always ended.

use std::{
    ffi::OsStr,
    fmt,
    io::{BufRead, BufReader, Read},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread::{self, JoinHandle},
    time::Instant,
};

use crate::wait::{LONG, TICK};

/// A process that runs until it is told to stop, or is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
    errors: Option<JoinHandle<String>>,
}

impl Process {
    /// Starts it.
    ///
    /// # Panics
    /// When the system cannot.
    pub fn start(command: &mut Command) -> Process {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (sender, lines) = channel();
        let stdout = child.stdout.take().expect("piped");
        // Ends with the process, or with the last one who listens.
        thread::spawn(move || {
            BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|l| sender.send(l))
        });
        let errors = Some(read_all(child.stderr.take().expect("piped"), |bytes| {
            String::from_utf8_lossy(&bytes).into_owned()
        }));
        Process { child, lines, seen: Vec::new(), errors }
    }

    /// Waits for a line on stdout that contains `text`.
    ///
    /// # Panics
    /// When the process ends first, or none comes within [`LONG`].
    pub fn wait_for(&mut self, text: &str) -> String {
        let give_up = Instant::now() + LONG;
        loop {
            match self.lines.recv_timeout(give_up.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(text) => return line,
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Timeout) => panic!("no line with {text:?} in {:?}", self.seen),
                Err(RecvTimeoutError::Disconnected) => {
                    let (status, errors) = self.ended();
                    panic!("{status} before a line with {text:?} in {:?}: {errors}", self.seen);
                }
            }
        }
    }

    /// Asks it to stop (SIGTERM).
    ///
    /// # Panics
    /// When the system does not let us.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends it a signal, by the signal's name without `SIG`.
    ///
    /// # Panics
    /// When the system does not let us.
    pub fn signal(&self, signal: &str) {
        // The standard library has no way to send any but SIGKILL.
        let sent = Command::new("kill").args(["-s", signal]).arg(self.child.id().to_string()).status();
        assert!(sent.is_ok_and(|sent| sent.success()), "SIG{signal} was not sent");
    }

    /// Whether it has not ended yet.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends it at once (SIGKILL), and waits until it is gone.
    pub fn kill(&mut self) {
        // Fails only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits until it has ended by itself; how, and what it said on stderr.
    ///
    /// # Panics
    /// When that takes longer than [`LONG`].
    pub fn ended(&mut self) -> (ExitStatus, String) {
        let status = wait(&mut self.child);
        let errors = self.errors.take().map(|errors| errors.join().expect("a reader does not panic"));
        (status, errors.unwrap_or_default())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a command came to.
#[derive(Clone, PartialEq, Eq)]
pub struct Ran {
    /// Its exit code.
    pub code: Option<i32>,
    /// All of stdout.
    pub stdout: Vec<u8>,
    /// All of stderr.
    pub stderr: String,
}

/// Runs a command to its end.
///
/// # Panics
/// When it takes longer than [`LONG`].
pub fn run(command: &mut Command) -> Ran {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stdout = read_all(child.stdout.take().expect("piped"), |bytes| bytes);
    let stderr = read_all(child.stderr.take().expect("piped"), |bytes| bytes);
    let status = wait(&mut child);
    let [stdout, stderr] = [stdout, stderr].map(|reader| reader.join().expect("a reader does not panic"));
    Ran { code: status.code(), stdout, stderr: String::from_utf8_lossy(&stderr).into_owned() }
}

impl fmt::Debug for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stdout = String::from_utf8_lossy(&self.stdout);
        write!(f, "code {:?}\n--- stdout\n{stdout}\n--- stderr\n{}", self.code, self.stderr)
    }
}

impl Ran {
    /// Stdout as text.
    ///
    /// # Panics
    /// When the command did not end with code 0.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Holds that the command failed as commands should: this code, nothing on stdout, one line on stderr with `text` in it.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn fails(&self, code: i32, text: &str) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(self.stdout.is_empty(), "{self:?}");
        assert_eq!(self.stderr.lines().count(), 1, "not one line: {self:?}");
        assert!(
            self.stderr.starts_with("dyn: ") && self.stderr.contains(text),
            "{text:?} is not in {self:?}"
        );
    }
}

/// A command of this program with an environment of its own: nothing of the caller's leads it to another cluster.
pub fn command(program: impl AsRef<OsStr>, home: &std::path::Path) -> Command {
    let mut command = Command::new(program);
    command.env_remove("DYN_CLUSTER").env_remove("DYN_LOG").env("NO_COLOR", "1");
    command.env("HOME", home).env("XDG_DATA_HOME", home.join("data"));
    command
}

fn wait(child: &mut Child) -> ExitStatus {
    let give_up = Instant::now() + LONG;
    loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return status;
        }
        if Instant::now() > give_up {
            let _ = child.kill();
            panic!("process {} has not ended within {LONG:?}", child.id());
        }
        thread::sleep(TICK);
    }
}

fn read_all<T: Send + 'static>(
    mut from: impl Read + Send + 'static,
    then: impl FnOnce(Vec<u8>) -> T + Send + 'static,
) -> JoinHandle<T> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error is what there is to show.
        let _ = from.read_to_end(&mut bytes);
        then(bytes)
    })
}
