//! A real API server: `etcd` and `kube-apiserver` on loopback with RBAC on, and `kubectl` to talk to it as a person would.
//! The binaries are those of `KUBEBUILDER_ASSETS`, else those that `lamina-setup cluster` builds once into the user's
//! cache. Without them the tests fail.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::{Value, json};

use crate::support::node::Said;
use crate::support::{registry, wait};

/// The token of the user `admin`, of the group `system:masters`.
const ADMIN: &str = "admin-of-the-tests";

/// An API server with a store of its own.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// Signs certificates of clients.
    clients: CertifiedIssuer<'static, KeyPair>,
    dir: tempfile::TempDir,
    assets: PathBuf,
    etcd: Child,
    server: Option<Child>,
    port: u16,
    etcd_port: u16,
}

/// Where the binaries are.
fn assets() -> PathBuf {
    if let Some(dir) = std::env::var_os("KUBEBUILDER_ASSETS").filter(|dir| !dir.is_empty()) {
        return dir.into();
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|v| !v.is_empty()).map(PathBuf::from);
    let cache = cache.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"));
    let dir = cache.join("lamina/cluster");
    let found = fs::read_dir(&dir).into_iter().flatten().flatten().map(|e| e.path());
    let all = found.filter(|p| p.join("kube-apiserver").exists());
    let number = |path: &PathBuf| -> Vec<u32> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.split('.').filter_map(|part| part.parse().ok()).collect()
    };
    all.max_by_key(number)
        .unwrap_or_else(|| panic!("no kube-apiserver in {}: `tests/run cluster` builds it", dir.display()))
}

/// A program of the assets, else of the PATH (`etcd` is a package).
fn program(assets: &Path, name: &str) -> PathBuf {
    let built = assets.join(name);
    if built.exists() { built } else { name.into() }
}

impl Cluster {
    /// Starts both and waits until the API server is ready.
    pub(crate) fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("lamina-cluster-").tempdir().unwrap();
        let assets = assets();
        let (client, peer) = (registry::free_port(), registry::free_port());
        let log = File::create(dir.path().join("etcd.log")).unwrap();
        let etcd = Command::new(program(&assets, "etcd"))
            .args(["--unsafe-no-fsync", "--name", "tests", "--data-dir"])
            .arg(dir.path().join("etcd"))
            .arg(format!("--listen-client-urls=http://127.0.0.1:{client}"))
            .arg(format!("--advertise-client-urls=http://127.0.0.1:{client}"))
            .arg(format!("--listen-peer-urls=http://127.0.0.1:{peer}"))
            .arg(format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"))
            .arg(format!("--initial-cluster=tests=http://127.0.0.1:{peer}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let key = KeyPair::generate().unwrap();
        fs::write(dir.path().join("sa.key"), key.serialize_pem()).unwrap();
        fs::write(dir.path().join("sa.pub"), key.public_key_pem()).unwrap();
        fs::write(dir.path().join("tokens.csv"), format!("{ADMIN},admin,admin,\"system:masters\"\n")).unwrap();
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name.push(DnType::CommonName, "clients");
        let clients = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        fs::write(dir.path().join("clients.crt"), clients.pem()).unwrap();
        let mut cluster =
            Self { clients, dir, assets, etcd, server: None, port: registry::free_port(), etcd_port: client };
        cluster.start_server();
        cluster
    }

    /// Starts the API server (again), on the same port and store.
    pub(crate) fn start_server(&mut self) {
        assert!(self.server.is_none(), "the API server runs");
        let path = |name: &str| self.dir.path().join(name);
        let log = fs::OpenOptions::new().create(true).append(true).open(path("kube-apiserver.log")).unwrap();
        let flag = |name: &str, file: &str| format!("--{name}={}", path(file).display());
        let child = Command::new(program(&self.assets, "kube-apiserver"))
            .arg(format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port))
            .args(["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1"])
            .arg(format!("--secure-port={}", self.port))
            .args(["--service-cluster-ip-range=10.0.0.0/24", "--endpoint-reconciler-type=none"])
            .args(["--service-account-issuer=https://lamina.test", "--authorization-mode=RBAC"])
            .args(["--disable-admission-plugins=ServiceAccount", "--shutdown-delay-duration=0s", "--allow-privileged"])
            .args([flag("cert-dir", "certs"), flag("token-auth-file", "tokens.csv")])
            .arg(flag("client-ca-file", "clients.crt"))
            .args([flag("service-account-signing-key-file", "sa.key"), flag("service-account-key-file", "sa.pub")])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.server = Some(child);
        let config = self.kubeconfig("admin", ADMIN);
        wait("the API server is ready", || {
            if let Some(status) = self.server.as_mut().unwrap().try_wait().unwrap() {
                panic!("kube-apiserver ended with {status}:\n{}", self.log());
            }
            let said = Self::run(self.kubectl_command(&config).args(["get", "--raw=/readyz"]), "");
            (said.status == 0 && said.out == "ok").then_some(())
        });
    }

    /// Ends the API server; its store stays.
    pub(crate) fn stop_server(&mut self) {
        let mut server = self.server.take().unwrap();
        server.kill().unwrap();
        server.wait().unwrap();
    }

    /// The end of what the API server logged.
    pub(crate) fn log(&self) -> String {
        let log = fs::read_to_string(self.dir.path().join("kube-apiserver.log")).unwrap_or_default();
        log.lines().rev().take(30).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// The address of the API server.
    pub(crate) fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// A kubeconfig for whoever has the token.
    pub(crate) fn kubeconfig(&self, user: &str, token: &str) -> PathBuf {
        self.kubeconfig_at(user, token, &self.url())
    }

    /// The same, for an API server that is reached by way of something else.
    pub(crate) fn kubeconfig_at(&self, user: &str, token: &str, url: &str) -> PathBuf {
        self.kubeconfig_with(user, &json!({ "token": token }), url)
    }

    /// The same, for whoever has these credentials: the `user` of a kubeconfig.
    pub(crate) fn kubeconfig_with(&self, user: &str, credentials: &Value, url: &str) -> PathBuf {
        let file = self.dir.path().join(format!("kubeconfig-{user}-{}", url.rsplit(':').next().unwrap_or_default()));
        let authority = self.dir.path().join("certs/apiserver.crt");
        let cluster = if url.starts_with("https") {
            json!({ "server": url, "certificate-authority": authority })
        } else {
            json!({ "server": url })
        };
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "tests",
            "clusters": [{ "name": "tests", "cluster": cluster }],
            "users": [{ "name": user, "user": credentials }],
            "contexts": [{ "name": "tests", "context": { "cluster": "tests", "user": user } }],
        });
        fs::write(&file, config.to_string()).unwrap();
        file
    }

    /// The kubeconfig of `admin`.
    pub(crate) fn admin(&self) -> PathBuf {
        self.kubeconfig("admin", ADMIN)
    }

    /// The kubeconfig of `admin` by way of another address.
    pub(crate) fn admin_at(&self, url: &str) -> PathBuf {
        self.kubeconfig_at("admin", ADMIN, url)
    }

    /// The kubeconfig of a service account; its token is bound to a node where one is named.
    pub(crate) fn account(&self, namespace: &str, name: &str, node: Option<&str>) -> PathBuf {
        let mut args = vec!["create", "token", name, "-n", namespace];
        let uid;
        if let Some(node) = node {
            uid = self.get(&["node", node])["metadata"]["uid"].as_str().unwrap().to_owned();
            args.extend(["--bound-object-kind=Node", "--bound-object-name", node, "--bound-object-uid", &uid]);
        }
        let token = self.ok(&args);
        self.kubeconfig(&format!("{name}-{}", node.unwrap_or("any")), token.trim())
    }

    /// Writes a certificate and its key for a member of `system:masters`, good for this long; gives their files.
    pub(crate) fn certificate(&self, name: &str, good: Duration) -> [PathBuf; 2] {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, "system:masters");
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        params.not_after = (std::time::SystemTime::now() + good).into();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.clients).unwrap();
        let files = ["crt", "key"].map(|kind| self.dir.path().join(format!("{name}.{kind}")));
        fs::write(&files[0], certificate.pem()).unwrap();
        fs::write(&files[1], key.serialize_pem()).unwrap();
        files
    }

    /// How large the database of etcd is.
    pub(crate) fn etcd_bytes(&self) -> u64 {
        fs::metadata(self.dir.path().join("etcd/member/snap/db")).map_or(0, |m| m.len())
    }

    /// Where kubectl is.
    pub(crate) fn kubectl_program(&self) -> PathBuf {
        program(&self.assets, "kubectl")
    }

    fn kubectl_command(&self, config: &Path) -> Command {
        let mut command = Command::new(self.kubectl_program());
        command.arg("--kubeconfig").arg(config).env("HOME", self.dir.path());
        command
    }

    fn run(command: &mut Command, input: &str) -> Said {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("kubectl");
        // What reads nothing may be gone already.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap().into()
    }

    /// Runs kubectl as whoever the kubeconfig says, with something on its standard input.
    pub(crate) fn kubectl_as(&self, config: &Path, args: &[&str], input: &str) -> Said {
        Self::run(self.kubectl_command(config).args(args), input)
    }

    /// Runs kubectl as admin.
    pub(crate) fn kubectl(&self, args: &[&str], input: &str) -> Said {
        self.kubectl_as(&self.admin(), args, input)
    }

    /// Runs kubectl as admin; gives what it printed.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let said = self.kubectl(args, "");
        assert_eq!(said.status, 0, "kubectl {args:?}: {}{}", said.out, said.err);
        said.out
    }

    /// Applies a document.
    pub(crate) fn apply(&self, document: &str) {
        let said = self.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", "-"], document);
        assert_eq!(said.status, 0, "{}{}\n{document}", said.out, said.err);
    }

    /// What there is, as `kubectl get -o json` says.
    pub(crate) fn get(&self, args: &[&str]) -> Value {
        let mut all = vec!["get", "-o", "json"];
        all.extend(args);
        serde_json::from_str(&self.ok(&all)).unwrap()
    }

    /// The same; `None` where there is none.
    pub(crate) fn find(&self, args: &[&str]) -> Option<Value> {
        let mut all = vec!["get", "-o", "json"];
        all.extend(args);
        let said = self.kubectl(&all, "");
        (said.status == 0).then(|| serde_json::from_str(&said.out).unwrap())
    }

    /// Applies what is shipped, and makes a Node of each name.
    pub(crate) fn with_nodes(self, names: &[&str]) -> Self {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests");
        self.ok(&["apply", "--server-side", "-k", shipped.to_str().unwrap()]);
        // Both kinds are served a moment after that.
        wait("the kinds are known", || {
            let said = self.kubectl(&["get", "nodeworkloads,nodereports", "-A"], "");
            (said.status == 0).then_some(())
        });
        for name in names {
            self.apply(&format!(
                "apiVersion: v1\nkind: Node\nmetadata: {{ name: {name}, labels: {{ kubernetes.io/hostname: {name} }} }}\n"
            ));
        }
        self
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.server.iter_mut().chain([&mut self.etcd]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
