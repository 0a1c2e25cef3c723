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
const EVICTION: &str = "only the node evicts, and asks nobody";
const PRIORITY: &str = "system-node-critical and system-cluster-critical count as in a cluster, other names as 0";
const ACCOUNT: &str = "pods from a directory get no token";
const LINUX: &str = "containers are Linux containers";
const TEMPLATE: &str = "the namespace and name of a pod come from its workload";
const APPARMOR: &str = "where the node runs AppArmor, else such a pod is over at once; no profile unless one is asked for; RuntimeDefault is loaded with the node's apparmor_parser, or the one of containerd";
const SELINUX: &str = "where the node runs SELinux, else such a pod is over at once; no label unless one is asked for, and what is not asked for of it comes from the node's policy; volumes but those of the host get the container's";
const CLOUD: &str = "this volume type is not supported";
const SURGE: &str = "when neither is given, pods are replaced in their place, one after another";
const JOB_NAMES: &str = "a job's pods are known by their name";
const REQUESTS: &str = "what counts is requests";
const ONE_CLASS: &str = "every claim is a directory of this node";
const FILES: &[&str] = &["\"Filesystem\""];
const BLOCKS: &str = "raw block devices are not supported";
const MADE_EMPTY: &str = "a volume is made empty";
const NO_VOLUMES: &str = "each claim has a volume of its own, and there are no others to choose from";
const BALANCER: &str = "there is no load balancer; use NodePort";

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
    yes("containers.env.valueFrom.fileKeyRef"),
    yes("containers.env.valueFrom.resourceFieldRef"),
    yes("containers.env.valueFrom.secretKeyRef"),
    yes("containers.envFrom"),
    yes("containers.image"),
    yes("containers.imagePullPolicy"),
    yes("containers.lifecycle"),
    yes("containers.lifecycle.postStart.httpGet.protocol"),
    yes("containers.lifecycle.preStop.httpGet.protocol"),
    yes("containers.livenessProbe"),
    yes("containers.livenessProbe.httpGet.protocol"),
    yes("containers.name"),
    yes("containers.ports"),
    yes("containers.ports.containerPort"),
    yes("containers.ports.hostIP"),
    yes("containers.ports.hostPort"),
    yes("containers.ports.name"),
    yes("containers.ports.protocol"),
    yes("containers.readinessProbe"),
    yes("containers.readinessProbe.httpGet.protocol"),
    yes("containers.resizePolicy"),
    yes("containers.resizePolicy.resourceName"),
    yes("containers.resizePolicy.restartPolicy"),
    yes("containers.resources"),
    no("containers.resources.claims", "there are no resource claims"),
    yes("containers.resources.limits"),
    yes("containers.resources.requests"),
    yes("containers.restartPolicy"),
    yes("containers.restartPolicyRules"),
    yes("containers.securityContext"),
    yes("containers.securityContext.allowPrivilegeEscalation"),
    partly("containers.securityContext.appArmorProfile", APPARMOR),
    yes("containers.securityContext.capabilities"),
    yes("containers.securityContext.privileged"),
    partly("containers.securityContext.procMount", "Unmasked with hostUsers: false only"),
    yes("containers.securityContext.readOnlyRootFilesystem"),
    yes("containers.securityContext.runAsGroup"),
    yes("containers.securityContext.runAsNonRoot"),
    yes("containers.securityContext.runAsUser"),
    partly("containers.securityContext.seLinuxOptions", SELINUX),
    yes("containers.securityContext.seccompProfile"),
    yes("containers.securityContext.seccompProfile.localhostProfile"),
    yes("containers.securityContext.seccompProfile.type"),
    no("containers.securityContext.windowsOptions", LINUX),
    yes("containers.startupProbe"),
    yes("containers.startupProbe.httpGet.protocol"),
    yes("containers.stdin"),
    yes("containers.stdinOnce"),
    yes("containers.terminationMessagePath"),
    yes("containers.terminationMessagePolicy"),
    yes("containers.tty"),
    no("containers.volumeDevices", "raw block devices are not supported"),
    yes("containers.volumeMounts"),
    yes("containers.volumeMounts.bindMountOptions"),
    yes("containers.volumeMounts.mountPath"),
    yes("containers.volumeMounts.mountPropagation"),
    yes("containers.volumeMounts.name"),
    yes("containers.volumeMounts.readOnly"),
    yes("containers.volumeMounts.recursiveReadOnly"),
    yes("containers.volumeMounts.subPath"),
    yes("containers.volumeMounts.subPathExpr"),
    yes("containers.workingDir"),
    yes("dnsConfig"),
    yes("dnsPolicy"),
    yes("enableServiceLinks"),
    no("ephemeralContainers", "they are added to a running pod, never in a manifest"),
    ignored("evictionResponders", EVICTION),
    yes("hostAliases"),
    yes("hostIPC"),
    yes("hostNetwork"),
    yes("hostPID"),
    partly("hostUsers", "false where the kernel is 6.15 or later"),
    yes("hostname"),
    yes("hostnameOverride"),
    yes("imagePullSecrets"),
    partly("initContainers", "each as in containers; probes and hooks on those with restartPolicy: Always only"),
    ignored("nodeName", SCHEDULER),
    ignored("nodeSelector", SCHEDULER),
    yes("os"),
    ignored("overhead", SCHEDULER),
    ignored("preemptionPolicy", SCHEDULER),
    yes("priority"),
    partly("priorityClassName", PRIORITY),
    no("readinessGates", "nothing here sets such conditions"),
    no("resourceClaims", "there are no resource claims"),
    yes("resources"),
    no("resources.claims", "there are no resource claims"),
    yes("resources.limits"),
    yes("resources.requests"),
    yes("restartPolicy"),
    no("runtimeClassName", "there is one runtime only"),
    ignored("schedulerName", SCHEDULER),
    no("schedulingGates", "there is no scheduler to wait for"),
    ignored("schedulingGroup", SCHEDULER),
    yes("securityContext"),
    partly("securityContext.appArmorProfile", APPARMOR),
    yes("securityContext.fsGroup"),
    yes("securityContext.fsGroupChangePolicy"),
    yes("securityContext.runAsGroup"),
    yes("securityContext.runAsNonRoot"),
    yes("securityContext.runAsUser"),
    ignored(
        "securityContext.seLinuxChangePolicy",
        "a volume is relabelled where its top has another label, and then all of it",
    ),
    partly("securityContext.seLinuxOptions", SELINUX),
    yes("securityContext.seccompProfile"),
    yes("securityContext.seccompProfile.localhostProfile"),
    yes("securityContext.seccompProfile.type"),
    yes("securityContext.supplementalGroups"),
    yes("securityContext.supplementalGroupsPolicy"),
    partly("securityContext.sysctls", "the safe ones; others where the node allows them"),
    no("securityContext.windowsOptions", LINUX),
    ignored("serviceAccount", ACCOUNT),
    ignored("serviceAccountName", ACCOUNT),
    yes("setHostnameAsFQDN"),
    yes("shareProcessNamespace"),
    yes("subdomain"),
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
    yes("volumes.configMap.defaultUser"),
    yes("volumes.configMap.items"),
    yes("volumes.configMap.items.key"),
    yes("volumes.configMap.items.mode"),
    yes("volumes.configMap.items.path"),
    yes("volumes.configMap.items.user"),
    yes("volumes.configMap.name"),
    yes("volumes.configMap.optional"),
    no("volumes.csi", "CSI drivers are not supported"),
    yes("volumes.downwardAPI"),
    yes("volumes.emptyDir"),
    yes("volumes.emptyDir.medium"),
    yes("volumes.emptyDir.mode"),
    yes("volumes.emptyDir.sizeLimit"),
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
    yes("volumes.image"),
    yes("volumes.image.pullPolicy"),
    yes("volumes.image.reference"),
    no("volumes.iscsi", CLOUD),
    yes("volumes.name"),
    yes("volumes.nfs"),
    yes("volumes.nfs.path"),
    yes("volumes.nfs.readOnly"),
    partly("volumes.nfs.server", "NFS 4, by the kernel's own client"),
    yes("volumes.persistentVolumeClaim"),
    yes("volumes.persistentVolumeClaim.claimName"),
    yes("volumes.persistentVolumeClaim.readOnly"),
    no("volumes.photonPersistentDisk", CLOUD),
    no("volumes.portworxVolume", CLOUD),
    yes("volumes.projected"),
    no("volumes.projected.sources.clusterTrustBundle", "there are no trust bundles"),
    no("volumes.projected.sources.podCertificate", "there is no signer"),
    no(
        "volumes.projected.sources.serviceAccountToken",
        "pods from a directory get no token; those of a NodeWorkload do",
    ),
    no("volumes.quobyte", CLOUD),
    no("volumes.rbd", CLOUD),
    no("volumes.scaleIO", CLOUD),
    yes("volumes.secret"),
    yes("volumes.secret.defaultMode"),
    yes("volumes.secret.defaultUser"),
    yes("volumes.secret.items"),
    yes("volumes.secret.items.key"),
    yes("volumes.secret.items.mode"),
    yes("volumes.secret.items.path"),
    yes("volumes.secret.items.user"),
    yes("volumes.secret.optional"),
    yes("volumes.secret.secretName"),
    no("volumes.storageos", CLOUD),
    no("volumes.vsphereVolume", CLOUD),
];

/// A Deployment's spec.
pub(super) const DEPLOYMENT: &[Field] = &[
    yes("minReadySeconds"),
    yes("paused"),
    yes("progressDeadlineSeconds"),
    yes("replicas"),
    yes("revisionHistoryLimit"),
    yes("selector"),
    yes("strategy"),
    yes("strategy.rollingUpdate"),
    partly("strategy.rollingUpdate.maxSurge", SURGE),
    partly("strategy.rollingUpdate.maxUnavailable", SURGE),
    yes("strategy.type"),
    yes("template"),
];

/// A DaemonSet's spec.
pub(super) const DAEMON_SET: &[Field] = &[
    yes("minReadySeconds"),
    yes("revisionHistoryLimit"),
    yes("selector"),
    yes("template"),
    yes("updateStrategy"),
    ignored("updateStrategy.rollingUpdate", "there is one pod"),
    yes("updateStrategy.type"),
];

/// A StatefulSet's spec.
pub(super) const STATEFUL_SET: &[Field] = &[
    yes("minReadySeconds"),
    yes("ordinals"),
    yes("ordinals.start"),
    yes("persistentVolumeClaimRetentionPolicy"),
    yes("podManagementPolicy"),
    yes("replicas"),
    yes("revisionHistoryLimit"),
    yes("selector"),
    yes("serviceName"),
    yes("template"),
    yes("updateStrategy"),
    yes("updateStrategy.rollingUpdate"),
    yes("updateStrategy.rollingUpdate.maxUnavailable"),
    yes("updateStrategy.rollingUpdate.partition"),
    yes("updateStrategy.type"),
    yes("volumeClaimTemplates"),
    no("volumeClaimTemplates.spec.dataSource", MADE_EMPTY),
    no("volumeClaimTemplates.spec.dataSourceRef", MADE_EMPTY),
    ignored("volumeClaimTemplates.spec.resources.limits", REQUESTS),
    no("volumeClaimTemplates.spec.selector", NO_VOLUMES),
    ignored("volumeClaimTemplates.spec.storageClassName", ONE_CLASS),
    ignored("volumeClaimTemplates.spec.volumeAttributesClassName", ONE_CLASS),
    no_unless("volumeClaimTemplates.spec.volumeMode", FILES, BLOCKS),
    no("volumeClaimTemplates.spec.volumeName", NO_VOLUMES),
    ignored("volumeClaimTemplates.status", SERVER),
];

/// A CronJob's spec; that of its jobs is as a Job's.
pub(super) const CRON_JOB: &[Field] = &[
    yes("concurrencyPolicy"),
    yes("failedJobsHistoryLimit"),
    yes("jobTemplate"),
    partly("schedule", "five fields, or @hourly and the like; in timeZone, else in the node's"),
    partly("startingDeadlineSeconds", "of several missed times the newest counts"),
    yes("successfulJobsHistoryLimit"),
    yes("suspend"),
    partly("timeZone", "one that the node knows (tzdata)"),
];

/// A Job's spec.
pub(super) const JOB: &[Field] = &[
    yes("activeDeadlineSeconds"),
    yes("backoffLimit"),
    yes("backoffLimitPerIndex"),
    yes("completionMode"),
    yes("completions"),
    no_unless("managedBy", &["\"kubernetes.io/job-controller\""], "there is no other controller here"),
    ignored("manualSelector", JOB_NAMES),
    yes("maxFailedIndexes"),
    yes("parallelism"),
    yes("podFailurePolicy"),
    partly("podReplacementPolicy", "a pod is replaced when it is gone"),
    no("scheduling", SCHEDULER),
    ignored("selector", JOB_NAMES),
    yes("successPolicy"),
    yes("suspend"),
    yes("template"),
    yes("ttlSecondsAfterFinished"),
];

/// A Service's spec.
pub(super) const SERVICE: &[Field] = &[
    ignored("allocateLoadBalancerNodePorts", BALANCER),
    yes("clusterIP"),
    yes("clusterIPs"),
    no("externalIPs", "nothing announces addresses; use NodePort or hostPort"),
    yes("externalName"),
    ignored("externalTrafficPolicy", "every pod is on this node"),
    ignored("healthCheckNodePort", BALANCER),
    ignored("internalTrafficPolicy", "every pod is on this node"),
    yes("ipFamilies"),
    yes("ipFamilyPolicy"),
    no("loadBalancerClass", BALANCER),
    no("loadBalancerIP", BALANCER),
    no("loadBalancerSourceRanges", BALANCER),
    yes("ports"),
    yes("publishNotReadyAddresses"),
    yes("selector"),
    partly("sessionAffinity", "by a hash of the client's address, for as long as the pods stay the same"),
    ignored("sessionAffinityConfig", "a client stays with its pod for as long as the pods stay the same"),
    ignored("trafficDistribution", "every pod is on this node"),
    no_unless("type", &["\"ClusterIP\"", "\"NodePort\"", "\"ExternalName\""], BALANCER),
];

/// A PersistentVolumeClaim's spec.
pub(super) const CLAIM: &[Field] = &[
    partly("accessModes", "ReadWriteOncePod lets one pod have it; the others set no limits on one node"),
    no("dataSource", MADE_EMPTY),
    no("dataSourceRef", MADE_EMPTY),
    yes("resources"),
    ignored("resources.limits", REQUESTS),
    partly("resources.requests", "storage: counted, and reported when it is exceeded"),
    no("selector", NO_VOLUMES),
    ignored("storageClassName", ONE_CLASS),
    ignored("volumeAttributesClassName", ONE_CLASS),
    no_unless("volumeMode", FILES, BLOCKS),
    no("volumeName", NO_VOLUMES),
];
