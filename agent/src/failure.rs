//! How a command ends: the exit statuses that scripts depend on, and an error that carries one, with its hint.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

use lamina::server::problem::{Problem, Reason};

/// The exit statuses of cli.md. `run`, `exec` and `attach` hand on the command's own instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// Something was attempted and did not work.
    Failed = 1,
    /// The command line or a file is not right.
    Usage = 2,
    /// The agent is running already, or is not running.
    Agent = 3,
    /// The object is not there.
    NotFound = 4,
    /// A wait took too long.
    TimedOut = 5,
    /// `run` and `exec`: it failed before the command ran, and that is on us.
    Ours = 125,
    /// `run` and `exec`: the command is there and cannot be executed.
    NotExecutable = 126,
    /// `run` and `exec`: there is no such command.
    NoCommand = 127,
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        // Every value of the enum is a byte.
        Self::from(u8::try_from(status as i32).unwrap_or(1))
    }
}

/// An error that a person sees: what was attempted and why it failed, the status, and what they can do about it.
#[derive(Debug)]
pub(crate) struct Failure {
    status: Status,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl Failure {
    /// A failure without a deeper cause.
    pub(crate) fn new(status: Status, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), hint: None, source: None }
    }

    /// The command line or a file is not right.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Status::Usage, message)
    }

    /// Adds the one line that says what a person can do.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the cause.
    pub(crate) fn source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What the agent answered.
    pub(crate) fn from_problem(problem: Problem) -> Self {
        let status = match problem.reason {
            Reason::Invalid => Status::Usage,
            Reason::NotFound => Status::NotFound,
            Reason::TimedOut => Status::TimedOut,
            Reason::NotExecutable => Status::NotExecutable,
            Reason::NoCommand => Status::NoCommand,
            Reason::Conflict | Reason::Refused | Reason::Failed | Reason::Unavailable => Status::Failed,
        };
        Self { status, message: problem.message, hint: problem.hint, source: None }
    }

    /// As [`Failure::from_problem`] for `run`, `exec` and `attach`: what is not about the command itself is 125.
    pub(crate) fn before_the_command(self) -> Self {
        let status = match self.status {
            kept @ (Status::NotExecutable | Status::NoCommand) => kept,
            _ => Status::Ours,
        };
        Self { status, ..self }
    }

    /// The status to exit with.
    pub(crate) fn status(&self) -> Status {
        self.status
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| source.as_ref() as _)
    }
}

/// What stdout gave when its reader went away: the command stops, and that is success.
#[derive(Debug)]
pub(crate) struct StdoutClosed;

impl fmt::Display for StdoutClosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the reader of standard output is gone")
    }
}

impl Error for StdoutClosed {}

/// Turns what a command returned into an exit status, and says on `err` why it failed.
pub(crate) fn report(result: anyhow::Result<ExitCode>, err: &mut dyn std::io::Write) -> ExitCode {
    let error = match result {
        Ok(code) => return code,
        Err(error) => error,
    };
    if error.chain().any(<dyn Error>::is::<StdoutClosed>) {
        return ExitCode::SUCCESS;
    }
    let failure = error.chain().find_map(|cause| cause.downcast_ref::<Failure>());
    // Nothing can be done about a standard error that cannot be written.
    let _ = writeln!(err, "error: {error:#}");
    if let Some(hint) = failure.and_then(|failure| failure.hint.as_deref()) {
        let _ = writeln!(err, "hint: {hint}");
    }
    failure.map_or(Status::Failed, Failure::status).into()
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    fn said(error: anyhow::Error) -> (ExitCode, String) {
        let mut text = Vec::new();
        let code = report(Err(error), &mut text);
        (code, String::from_utf8(text).unwrap())
    }

    #[test]
    fn an_error_says_what_why_and_then_the_hint() {
        let failure = Failure::new(Status::NotFound, "there is no pod default/web").hint("lamina get pods -A");
        let error = anyhow::Error::from(failure).context("cannot read the logs of web");
        let (code, text) = said(error);
        assert_eq!(code, ExitCode::from(4));
        assert_eq!(text, "error: cannot read the logs of web: there is no pod default/web\nhint: lamina get pods -A\n");
    }

    #[test]
    fn a_broken_pipe_is_success_and_silent() {
        let error = Err::<(), _>(StdoutClosed).context("cannot list").unwrap_err();
        assert_eq!(said(error), (ExitCode::SUCCESS, String::new()));
    }

    #[test]
    fn an_error_without_a_status_of_its_own_is_one() {
        assert_eq!(said(anyhow::anyhow!("x")).0, ExitCode::from(1));
    }

    #[test]
    fn before_the_command_ran_everything_but_the_command_is_ours() {
        for (reason, status) in [
            (Reason::NotFound, Status::Ours),
            (Reason::Failed, Status::Ours),
            (Reason::NoCommand, Status::NoCommand),
            (Reason::NotExecutable, Status::NotExecutable),
        ] {
            let failure = Failure::from_problem(Problem::new(reason, "x")).before_the_command();
            assert_eq!(failure.status(), status, "{reason:?}");
        }
    }
}
