//! Ends of processes: reaped, written to disk, then told.

use jiff::Timestamp;
use rustix::process::{WaitOptions, WaitStatus, wait};

use super::note;
use super::output::CHUNK;
use super::pod::Pod;
use crate::api::problem::chain;
use crate::runtime::protocol::{EXIT_FILE, Event, Exit, Failure, Reply};
use crate::sys::atomic;

/// Status files are the agent's alone.
const EXIT_MODE: u32 = 0o600;

impl Pod {
    /// Takes every child that has ended. Whoever is not known was an orphan that came to the shim.
    pub(super) fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get();
            let running = |c: &super::pod::Container| c.pid == pid && c.exit.is_none();
            if let Some(number) = self.containers.iter().find_map(|(number, c)| running(c).then_some(*number)) {
                self.container_ended(number, status);
            } else if let Some(id) = self.execs.iter().find_map(|(id, exec)| (exec.pid == pid).then_some(*id))
                && let Some(exec) = self.execs.remove(&id)
            {
                let exit = exit(status, exec.started_at, false);
                self.tell(&Event::ExecExited { id, exit });
            } else if self.place.init.as_ref().is_some_and(|init| init.pid == pid) {
                // The kernel ends everything in a pid namespace with its first process, and nothing can start there.
                note("the first process of the pod's pid namespace has ended");
                self.terminated = true;
            }
        }
    }

    fn container_ended(&mut self, number: u64, status: WaitStatus) {
        self.buffer.resize(CHUNK, 0);
        let Some(container) = self.containers.get_mut(&number) else { return };
        // Only where its first process was not the first of a pid namespace can anything be left of it.
        if let Err(e) = container.cgroup.kill() {
            note(&chain(&e));
        }
        let oom_killed = container.cgroup.oom_kills() > 0;
        container.exit = Some(exit(status, container.started_at, oom_killed));
        if let Some(input) = container.input.take() {
            input.end(&mut self.reactor);
        }
        container.outputs.drain(&mut self.reactor, &mut self.buffer);
        self.record(number);
        for asked in self.containers.get_mut(&number).map(|c| std::mem::take(&mut c.deleting)).unwrap_or_default() {
            let result = self.forget(number).map(|()| Reply::Done);
            self.answer(asked, result, Vec::new());
        }
    }

    /// Writes a container's exit to disk, then tells it. Where the disk cannot take it, it is told all the same, since a
    /// pod must not hang on a full disk, and written as soon as that can be done.
    fn record(&mut self, number: u64) {
        let Some(container) = self.containers.get_mut(&number) else { return };
        let Some(exit) = container.exit.clone() else { return };
        container.recorded = write(container, &exit);
        let event = Event::Exited { name: container.name.clone(), attempt: container.attempt, exit };
        self.tell(&event);
    }

    /// Tries again what could not be written.
    pub(super) fn record_again(&mut self) {
        for container in self.containers.values_mut().filter(|c| !c.recorded) {
            if let Some(exit) = container.exit.clone() {
                container.recorded = write(container, &exit);
            }
        }
    }

    /// Forgets an attempt that has ended: its cgroup goes, its streams are closed.
    pub(super) fn forget(&mut self, number: u64) -> Result<(), Failure> {
        let Some(mut container) = self.containers.remove(&number) else { return Ok(()) };
        container.outputs.close(&mut self.reactor);
        if let Some(input) = container.input.take() {
            input.end(&mut self.reactor);
        }
        if let Err(e) = container.cgroup.kill().and_then(|()| container.cgroup.remove()) {
            let failure = super::requests::failed(&e);
            // Still there to be deleted again.
            self.containers.insert(number, container);
            return Err(failure);
        }
        Ok(())
    }
}

fn write(container: &super::pod::Container, exit: &Exit) -> bool {
    let written = serde_json::to_vec(exit)
        .map_err(|e| chain(&e))
        .and_then(|text| atomic::write(&container.state.join(EXIT_FILE), &text, EXIT_MODE).map_err(|e| chain(&e)));
    if let Err(e) = &written {
        note(&format!("cannot record the end of container {}: {e}", container.name));
    }
    written.is_ok()
}

fn exit(status: WaitStatus, started_at: Timestamp, oom_killed: bool) -> Exit {
    let signal = status.terminating_signal();
    let code = status.exit_status().or_else(|| signal.map(|s| 128 + s)).unwrap_or(255);
    Exit { code, signal, oom_killed: oom_killed && code != 0, started_at, finished_at: Timestamp::now() }
}
