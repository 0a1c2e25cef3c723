//! Lines that people type, and lines that are refused.

use clap::CommandFactory as _;

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("lamina").chain(line.split_whitespace()))
}

#[test]
fn the_grammar_contradicts_itself_nowhere() {
    Cli::command().debug_assert();
}

#[test]
fn lines_of_the_documentation_are_understood() {
    for line in [
        "agent --root /r --run /x --manifests /a --manifests /b --store-driver erofs --gc-grace 1m30s",
        "apply -f web.yaml -f - --dry-run",
        "apply -f dir --wait --timeout 2m --prune",
        "delete -f web.yaml",
        "delete pod/web deployment/api --grace 0s",
        "run busybox -it --rm -- sh -c true",
        "run --rm busybox echo -n hi",
        "get pods -A -o wide -l app=web",
        "get po web -n prod -w",
        "get layer -o json",
        "describe pod/web",
        "logs web -c app --follow --since 10m --tail 5 --previous --timestamps",
        "exec web -c app -it -- sh -c true",
        "exec -it web ls -l",
        "attach web -i",
        "wait pod/web --for ready --timeout 30s",
        "wait pod/web --for=deleted",
        "drain --force --grace 5s",
        "drain --undo",
        "port-forward web 8080:80 :http --address 127.0.0.1,::1",
        "port-forward service/web 80",
        "cp web:/etc/hosts hosts -c app",
        "cp dir prod/web:/data --archive",
        "save game:1 other:2 -o x.tar --format docker-archive",
        "image tree game:1",
        "top pods -A",
        "top node",
        "pull game:1",
        "load -i x.tar",
        "export web -o -",
        "tag game:1 game:prod",
        "rmi game:1",
        "history game:1 --no-trunc",
        "diff web game:1",
        "df -o json",
        "why 0123456789ab",
        "pin game:1",
        "unpin game:1",
        "gc --dry-run --grace 0s",
        "check --full --repair",
        "explain pod.spec.containers",
        "explain --fields",
        "info",
        "completion bash",
        "controller --lease-namespace x --metrics 127.0.0.1:0",
        "crd",
        "crd nodereports",
        "get pods --run /tmp/x --no-progress",
        "--run /tmp/x get pods",
    ] {
        if let Err(error) = parse(line) {
            panic!("{line}: {error}");
        }
    }
}

#[test]
fn a_wrong_line_is_refused() {
    for line in [
        "",
        "frobnicate",
        "get",
        "get nonsense",
        "get pods -o xml",
        "apply",
        "delete",
        "delete pod/web -f x.yaml",
        "exec web",
        "wait pod/web --timeout soon",
        "run busybox -d -t",
        "agent --gc-high 101",
        "agent --gc-grace never",
        "agent --pull-parallel 0",
        "completion tcsh",
    ] {
        let error = parse(line).unwrap_err();
        assert_ne!(error.kind(), ErrorKind::DisplayHelp, "{line}");
        assert_ne!(error.kind(), ErrorKind::DisplayVersion, "{line}");
    }
}

#[test]
fn the_run_directory_may_stand_before_and_after_the_verb() {
    for line in ["--run /x get pods", "get pods --run /x"] {
        assert_eq!(parse(line).unwrap().global.run(), Path::new("/x"));
    }
}

#[test]
fn what_follows_the_command_of_exec_is_not_ours() {
    let Verb::Exec(_) = parse("exec web -- ls --run /y").unwrap().verb else { panic!("not exec") };
    assert_eq!(parse("exec web -- ls --run /y").unwrap().global.run, None);
}
