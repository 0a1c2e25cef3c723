//! The tables themselves: one row a field, in the order of the Kubernetes reference.

use super::{Answer, Field};

/// Honoured.
const fn yes(path: &'static str) -> Field {
    Field { path, answer: Answer::Honoured, note: "", unless: &[] }
}

/// Honoured, within limits that validation keeps.
const fn partly(path: &'static str, note: &'static str) -> Field {
    Field { path, answer: Answer::Honoured, note, unless: &[] }
}

/// Not there yet.
const fn later(path: &'static str, note: &'static str) -> Field {
    Field { path, answer: Answer::Later, note, unless: &[] }
}

/// Not there yet, but these values ask for nothing more than what happens.
const fn later_unless(path: &'static str, unless: &'static [&'static str], note: &'static str) -> Field {
    Field { path, answer: Answer::Later, note, unless }
}

/// Never.
const fn no(path: &'static str, note: &'static str) -> Field {
    Field { path, answer: Answer::Rejected, note, unless: &[] }
}

/// Never, but for these values.
const fn no_unless(path: &'static str, unless: &'static [&'static str], note: &'static str) -> Field {
    Field { path, answer: Answer::Rejected, note, unless }
}

/// Does nothing, on purpose.
const fn ignored(path: &'static str, note: &'static str) -> Field {
    Field { path, answer: Answer::Ignored, note, unless: &[] }
}

const SERVER: &str = "written by the API server";
const SCHEDULER: &str = "steers a scheduler, and there is none";
const EVICTION: &str = "orders eviction, and nothing is evicted";
const ACCOUNT: &str = "pods from a directory get no token";
const PROBES: &str = "probes are not supported yet";
const LINUX: &str = "containers are Linux containers";
const TEMPLATE: &str = "the namespace and name of a pod come from its workload";
const VOLUME: &str = "this volume type is not supported yet";
const CLOUD: &str = "this volume type is not supported";
const ROLLS: &str = "pods are rolled one after another";

/// Metadata of any object.
pub(super) const META: &[Field] = &[
    yes("annotations"),
    ignored("creationTimestamp", SERVER),
    ignored("deletionGracePeriodSeconds", SERVER),
    ignored("deletionTimestamp", SERVER),
    ignored("finalizers", "nothing waits for them here"),
    no("generateName", "an object needs a name of its own"),
    ignored("generation", SERVER),
    yes("labels"),
    ignored("managedFields", SERVER),
    yes("name"),
    yes("namespace"),
    ignored("ownerReferences", SERVER),
    ignored("resourceVersion", SERVER),
    ignored("selfLink", SERVER),
    ignored("uid", SERVER),
];

/// Metadata of a workload's pods.
pub(super) const TEMPLATE_META: &[Field] =
    &[yes("annotations"), yes("labels"), ignored("name", TEMPLATE), ignored("namespace", TEMPLATE)];

/// A pod's spec.
pub(super) const POD: &[Field] = &[
    yes("activeDeadlineSeconds"),
    ignored("affinity", SCHEDULER),
    ignored("automountServiceAccountToken", ACCOUNT),
    yes("containers"),
    yes("containers.args"),
    yes("containers.command"),
    yes("containers.env"),
    yes("containers.env.name"),
    yes("containers.env.value"),
    yes("containers.env.valueFrom"),
    yes("containers.env.valueFrom.configMapKeyRef"),
    yes("containers.env.valueFrom.fieldRef"),
    later("containers.env.valueFrom.fileKeyRef", ""),
    yes("containers.env.valueFrom.resourceFieldRef"),
    yes("containers.env.valueFrom.secretKeyRef"),
    yes("containers.envFrom"),
    yes("containers.image"),
    yes("containers.imagePullPolicy"),
    later("containers.lifecycle", "lifecycle hooks are not supported yet"),
    later("containers.livenessProbe", PROBES),
    yes("containers.name"),
    yes("containers.ports"),
    yes("containers.ports.containerPort"),
    later("containers.ports.hostIP", "ports are not mapped yet; use hostNetwork"),
    yes("containers.ports.hostPort"),
    yes("containers.ports.name"),
    yes("containers.ports.protocol"),
    later("containers.readinessProbe", PROBES),
    yes("containers.resizePolicy"),
    yes("containers.resizePolicy.resourceName"),
    later_unless("containers.resizePolicy.restartPolicy", &["\"NotRequired\""], "resources change without a restart"),
    yes("containers.resources"),
    no("containers.resources.claims", "there are no resource claims"),
    yes("containers.resources.limits"),
    yes("containers.resources.requests"),
    later("containers.restartPolicy", "the pod's restart policy counts"),
    later("containers.restartPolicyRules", "the pod's restart policy counts"),
    yes("containers.securityContext"),
    yes("containers.securityContext.allowPrivilegeEscalation"),
    later("containers.securityContext.appArmorProfile", ""),
    yes("containers.securityContext.capabilities"),
    yes("containers.securityContext.privileged"),
    later_unless("containers.securityContext.procMount", &["\"Default\""], ""),
    yes("containers.securityContext.readOnlyRootFilesystem"),
    yes("containers.securityContext.runAsGroup"),
    yes("containers.securityContext.runAsNonRoot"),
    yes("containers.securityContext.runAsUser"),
    later_unless("containers.securityContext.seLinuxOptions", &["{}"], ""),
    yes("containers.securityContext.seccompProfile"),
    later("containers.securityContext.seccompProfile.localhostProfile", ""),
    yes("containers.securityContext.seccompProfile.type"),
    no("containers.securityContext.windowsOptions", LINUX),
    later("containers.startupProbe", PROBES),
    yes("containers.stdin"),
    yes("containers.stdinOnce"),
    later_unless("containers.terminationMessagePath", &["\"/dev/termination-log\""], ""),
    later_unless("containers.terminationMessagePolicy", &["\"File\""], ""),
    yes("containers.tty"),
    no("containers.volumeDevices", "raw block devices are not supported"),
    yes("containers.volumeMounts"),
    later("containers.volumeMounts.bindMountOptions", ""),
    yes("containers.volumeMounts.mountPath"),
    later_unless("containers.volumeMounts.mountPropagation", &["\"None\""], ""),
    yes("containers.volumeMounts.name"),
    yes("containers.volumeMounts.readOnly"),
    later_unless("containers.volumeMounts.recursiveReadOnly", &["\"Disabled\""], ""),
    yes("containers.volumeMounts.subPath"),
    later("containers.volumeMounts.subPathExpr", ""),
    yes("containers.workingDir"),
    later_unless("dnsConfig", &["{}"], ""),
    yes("dnsPolicy"),
    ignored("enableServiceLinks", "there are no services to link"),
    no("ephemeralContainers", "they are added to a running pod, never in a manifest"),
    ignored("evictionResponders", EVICTION),
    later("hostAliases", ""),
    later_unless("hostIPC", &["false"], ""),
    yes("hostNetwork"),
    later_unless("hostPID", &["false"], ""),
    later_unless("hostUsers", &["true"], "user namespaces are not supported yet"),
    yes("hostname"),
    later("hostnameOverride", ""),
    yes("imagePullSecrets"),
    later("initContainers", "init containers are not supported yet"),
    ignored("nodeName", SCHEDULER),
    ignored("nodeSelector", SCHEDULER),
    yes("os"),
    ignored("overhead", SCHEDULER),
    ignored("preemptionPolicy", SCHEDULER),
    ignored("priority", EVICTION),
    ignored("priorityClassName", EVICTION),
    no("readinessGates", "nothing here sets such conditions"),
    no("resourceClaims", "there are no resource claims"),
    later_unless("resources", &["{}"], "resources of a whole pod are not supported yet; set them on its containers"),
    yes("restartPolicy"),
    no("runtimeClassName", "there is one runtime only"),
    ignored("schedulerName", SCHEDULER),
    no("schedulingGates", "there is no scheduler to wait for"),
    ignored("schedulingGroup", SCHEDULER),
    yes("securityContext"),
    later("securityContext.appArmorProfile", ""),
    yes("securityContext.fsGroup"),
    later_unless("securityContext.fsGroupChangePolicy", &["\"Always\""], ""),
    yes("securityContext.runAsGroup"),
    yes("securityContext.runAsNonRoot"),
    yes("securityContext.runAsUser"),
    ignored("securityContext.seLinuxChangePolicy", "no volume is relabelled"),
    later_unless("securityContext.seLinuxOptions", &["{}"], ""),
    yes("securityContext.seccompProfile"),
    later("securityContext.seccompProfile.localhostProfile", ""),
    yes("securityContext.seccompProfile.type"),
    yes("securityContext.supplementalGroups"),
    yes("securityContext.supplementalGroupsPolicy"),
    later("securityContext.sysctls", ""),
    no("securityContext.windowsOptions", LINUX),
    ignored("serviceAccount", ACCOUNT),
    ignored("serviceAccountName", ACCOUNT),
    later_unless("setHostnameAsFQDN", &["false"], ""),
    later_unless("shareProcessNamespace", &["false"], ""),
    later("subdomain", ""),
    yes("terminationGracePeriodSeconds"),
    ignored("tolerations", SCHEDULER),
    ignored("topologySpreadConstraints", SCHEDULER),
    yes("volumes"),
    no("volumes.awsElasticBlockStore", CLOUD),
    no("volumes.azureDisk", CLOUD),
    no("volumes.azureFile", CLOUD),
    no("volumes.cephfs", CLOUD),
    no("volumes.cinder", CLOUD),
    yes("volumes.configMap"),
    yes("volumes.configMap.defaultMode"),
    later("volumes.configMap.defaultUser", ""),
    yes("volumes.configMap.items"),
    yes("volumes.configMap.items.key"),
    yes("volumes.configMap.items.mode"),
    yes("volumes.configMap.items.path"),
    later("volumes.configMap.items.user", ""),
    yes("volumes.configMap.name"),
    yes("volumes.configMap.optional"),
    no("volumes.csi", "CSI drivers are not supported"),
    later("volumes.downwardAPI", VOLUME),
    yes("volumes.emptyDir"),
    partly("volumes.emptyDir.medium", "on disk, or Memory"),
    later("volumes.emptyDir.mode", ""),
    partly("volumes.emptyDir.sizeLimit", "with medium Memory only; refused on disk, where it is not enforced yet"),
    no("volumes.ephemeral", CLOUD),
    no("volumes.fc", CLOUD),
    no("volumes.flexVolume", CLOUD),
    no("volumes.flocker", CLOUD),
    no("volumes.gcePersistentDisk", CLOUD),
    no("volumes.gitRepo", CLOUD),
    no("volumes.glusterfs", CLOUD),
    yes("volumes.hostPath"),
    yes("volumes.hostPath.path"),
    yes("volumes.hostPath.type"),
    later("volumes.image", VOLUME),
    no("volumes.iscsi", CLOUD),
    yes("volumes.name"),
    later("volumes.nfs", VOLUME),
    later("volumes.persistentVolumeClaim", VOLUME),
    no("volumes.photonPersistentDisk", CLOUD),
    no("volumes.portworxVolume", CLOUD),
    later("volumes.projected", VOLUME),
    no("volumes.quobyte", CLOUD),
    no("volumes.rbd", CLOUD),
    no("volumes.scaleIO", CLOUD),
    yes("volumes.secret"),
    yes("volumes.secret.defaultMode"),
    later("volumes.secret.defaultUser", ""),
    yes("volumes.secret.items"),
    yes("volumes.secret.items.key"),
    yes("volumes.secret.items.mode"),
    yes("volumes.secret.items.path"),
    later("volumes.secret.items.user", ""),
    yes("volumes.secret.optional"),
    yes("volumes.secret.secretName"),
    no("volumes.storageos", CLOUD),
    no("volumes.vsphereVolume", CLOUD),
];

/// A Deployment's spec.
pub(super) const DEPLOYMENT: &[Field] = &[
    yes("minReadySeconds"),
    yes("paused"),
    ignored("progressDeadlineSeconds", ROLLS),
    yes("replicas"),
    ignored("revisionHistoryLimit", "no revisions are kept"),
    yes("selector"),
    yes("strategy"),
    ignored("strategy.rollingUpdate", ROLLS),
    yes("strategy.type"),
    yes("template"),
];

/// A DaemonSet's spec.
pub(super) const DAEMON_SET: &[Field] = &[
    yes("minReadySeconds"),
    ignored("revisionHistoryLimit", "no revisions are kept"),
    yes("selector"),
    yes("template"),
    yes("updateStrategy"),
    ignored("updateStrategy.rollingUpdate", "there is one pod"),
    later_unless("updateStrategy.type", &["\"RollingUpdate\""], "only RollingUpdate is"),
];

/// A Job's spec.
pub(super) const JOB: &[Field] = &[
    yes("activeDeadlineSeconds"),
    yes("backoffLimit"),
    later("backoffLimitPerIndex", ""),
    later_unless("completionMode", &["\"NonIndexed\""], "indexed jobs are not supported yet"),
    yes("completions"),
    no_unless("managedBy", &["\"kubernetes.io/job-controller\""], "there is no other controller here"),
    ignored("manualSelector", "a job's pods are known by their name"),
    later("maxFailedIndexes", ""),
    yes("parallelism"),
    later("podFailurePolicy", ""),
    later_unless("podReplacementPolicy", &["\"TerminatingOrFailed\""], ""),
    later("scheduling", ""),
    ignored("selector", "a job's pods are known by their name"),
    later("successPolicy", ""),
    yes("suspend"),
    yes("template"),
    yes("ttlSecondsAfterFinished"),
];
