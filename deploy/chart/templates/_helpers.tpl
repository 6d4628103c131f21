{{/*
Every value is read so that a missing parent does no harm: `helm upgrade --reuse-values` from the old chart brings the
values of the old chart, in which the new ones are absent.
*/}}

{{/* What stands for the chart in names and in the label `app`. With nfs.server, the value of the old chart, it is the old
     chart's name, so that the objects and the immutable selectors of an old release stay as they are. */}}
{{- define "berth.product" -}}
{{- if (.Values.nfs).server -}}nfs-subdir-external-provisioner{{- else -}}{{ .Chart.Name }}{{- end -}}
{{- end -}}

{{- define "berth.name" -}}
{{- default (include "berth.product" .) .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "berth.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default (include "berth.product" .) .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Immutable in a Deployment: never add one. */}}
{{- define "berth.selectorLabels" -}}
app: {{ include "berth.name" . }}
release: {{ .Release.Name }}
{{- end -}}

{{- define "berth.labels" -}}
{{ include "berth.selectorLabels" . }}
chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
heritage: {{ .Release.Service }}
{{- with .Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "berth.serviceAccountName" -}}
{{- if dig "create" true (.Values.serviceAccount | default dict) -}}
{{- default (include "berth.fullname" .) (.Values.serviceAccount).name -}}
{{- else -}}
{{- default "default" (.Values.serviceAccount).name -}}
{{- end -}}
{{- end -}}

{{/* The provisioner of the class `storageClass`, as the old chart made it. */}}
{{- define "berth.oldProvisionerName" -}}
{{- default (printf "cluster.local/%s" (include "berth.fullname" .)) (.Values.storageClass).provisionerName -}}
{{- end -}}

{{/* The provisioner name of a kind of storage: nfs, rbd or cephfs. */}}
{{- define "berth.provisioner" -}}
{{- default (printf "%s.berth.storage" .kind) (get (.root.Values.provisioners | default dict) .kind) -}}
{{- end -}}

{{/* The names that the configuration file lists as those of a kind of Ceph, because they do not say it themselves, as JSON. */}}
{{- define "berth.namesOf" -}}
{{- $names := get (.root.Values.config | default dict) (printf "%sProvisionerNames" .kind) | default list -}}
{{- $own := include "berth.provisioner" . -}}
{{- if and .root.Values.clusters (ne $own (printf "%s.berth.storage" .kind)) -}}
{{- $names = append $names $own -}}
{{- end -}}
{{- $names | uniq | toJson -}}
{{- end -}}

{{/* Every provisioner name that is served and does not say itself that it is one of Ceph's, as JSON. That of the old chart comes first, because the lock is named after it. */}}
{{- define "berth.provisionerNames" -}}
{{- $names := list -}}
{{- if (.Values.nfs).server -}}
{{- $names = append $names (include "berth.oldProvisionerName" .) -}}
{{- end -}}
{{- if .Values.exports -}}
{{- $names = append $names (include "berth.provisioner" (dict "root" . "kind" "nfs")) -}}
{{- end -}}
{{- range $kind := list "rbd" "cephfs" -}}
{{- $own := include "berth.provisioner" (dict "root" $ "kind" $kind) -}}
{{- if and $.Values.clusters (eq $own (printf "%s.berth.storage" $kind)) -}}
{{- $names = append $names $own -}}
{{- end -}}
{{- end -}}
{{- concat $names (.Values.provisionerNames | default list) | uniq | toJson -}}
{{- end -}}

{{/* Every provisioner name that is served, as JSON. */}}
{{- define "berth.served" -}}
{{- $names := include "berth.provisionerNames" . | fromJsonArray -}}
{{- range $kind := list "rbd" "cephfs" -}}
{{- $names = concat $names (include "berth.namesOf" (dict "root" $ "kind" $kind) | fromJsonArray) -}}
{{- end -}}
{{- $names | toJson -}}
{{- end -}}

{{/* "true" if RBD or CephFS is served. */}}
{{- define "berth.ceph" -}}
{{- $config := .Values.config | default dict -}}
{{- $names := concat (.Values.provisionerNames | default list) (list (include "berth.oldProvisionerName" .)) -}}
{{- $known := list "rbd.berth.storage" "cephfs.berth.storage" "ceph.com/rbd" "ceph.com/cephfs" "kubernetes.io/rbd" -}}
{{- $ceph := or .Values.clusters $config.rbdProvisionerNames $config.cephfsProvisionerNames -}}
{{- range $names -}}
{{- if has . $known -}}{{- $ceph = true -}}{{- end -}}
{{- end -}}
{{- if $ceph -}}true{{- end -}}
{{- end -}}

{{/* "true" if an export is served. */}}
{{- define "berth.exports" -}}
{{- if or (.Values.nfs).server .Values.exports -}}true{{- end -}}
{{- end -}}

{{/* "true" if the process runs as user 0: it has exports to set owners on, and the values name no other user. */}}
{{- define "berth.root" -}}
{{- $pod := .Values.podSecurityContext | default dict -}}
{{- $container := .Values.securityContext | default dict -}}
{{- $user := 0 -}}
{{- if hasKey $pod "runAsUser" -}}{{- $user = int $pod.runAsUser -}}{{- end -}}
{{- if hasKey $container "runAsUser" -}}{{- $user = int $container.runAsUser -}}{{- end -}}
{{- if and (include "berth.exports" .) (eq $user 0) (not $pod.runAsNonRoot) (not $container.runAsNonRoot) -}}true{{- end -}}
{{- end -}}

{{/* The namespace of the Secrets of CephFS volumes' own users. */}}
{{- define "berth.secretNamespace" -}}
{{- default .Release.Namespace (.Values.config).secretNamespace -}}
{{- end -}}

{{/* Where an export of exports[] is mounted. Never below /persistentvolumes, which is itself an export with nfs.server. */}}
{{- define "berth.exportRoot" -}}
{{- if eq .name "default" -}}/persistentvolumes{{- else -}}/exports/{{ .name }}{{- end -}}
{{- end -}}

{{/* The configuration file; empty if environment variables say it all, as in the old chart. */}}
{{- define "berth.config" -}}
{{- $file := deepCopy (.Values.config | default dict) -}}
{{- $needed := or $file .Values.exports .Values.clusters .Values.provisionerNames -}}
{{- $exports := list -}}
{{- if (.Values.nfs).server -}}
{{- $entry := dict -}}
{{- range $key := list "aliases" "formerPaths" "operationTimeout" -}}
{{- with get $.Values.nfs $key -}}{{- $_ := set $entry $key . -}}{{- end -}}
{{- end -}}
{{- if $entry -}}
{{- $needed = true -}}
{{- $exports = append $exports (set $entry "name" "default") -}}
{{- end -}}
{{- end -}}
{{- range .Values.exports -}}
{{- $entry := omit . "mountOptions" -}}
{{- $exports = append $exports (merge (dict "root" (include "berth.exportRoot" .) "requireMount" (not $.Values.buildMode)) $entry) -}}
{{- end -}}
{{- if $needed -}}
{{- with include "berth.provisionerNames" . | fromJsonArray -}}{{- $_ := set $file "provisionerNames" . -}}{{- end -}}
{{- range $kind := list "rbd" "cephfs" -}}
{{- with include "berth.namesOf" (dict "root" $ "kind" $kind) | fromJsonArray -}}
{{- $_ := set $file (printf "%sProvisionerNames" $kind) . -}}
{{- end -}}
{{- end -}}
{{- with $exports -}}{{- $_ := set $file "exports" . -}}{{- end -}}
{{- with .Values.clusters -}}{{- $_ := set $file "clusters" . -}}{{- end -}}
{{- if include "berth.ceph" . -}}
{{- $_ := set $file "secretNamespace" (include "berth.secretNamespace" .) -}}
{{- end -}}
{{- if and (not (.Values.nfs).server) (not $file.leaseName) -}}
{{- $_ := set $file "leaseName" (include "berth.fullname" .) -}}
{{- end -}}
{{- toYaml $file -}}
{{- end -}}
{{- end -}}

{{/* The configuration file of the node plugin: the clusters, and what is set of the log. Empty if nothing has to be told. */}}
{{- define "berth.nodeConfig" -}}
{{- if .Values.clusters -}}
{{- $file := dict "clusters" .Values.clusters -}}
{{- range $key := list "logFormat" "logLevel" -}}
{{- with get ($.Values.config | default dict) $key -}}{{- $_ := set $file $key . -}}{{- end -}}
{{- end -}}
{{- toYaml $file -}}
{{- end -}}
{{- end -}}

{{/* The image. A name or a tag that an old values file copied from the defaults of the old chart gives way to berth's. */}}
{{- define "berth.image" -}}
{{- $image := .Values.image | default dict -}}
{{- $repository := default "berth" $image.repository -}}
{{- $tag := toString (default "" $image.tag) -}}
{{- $old := regexMatch "^(registry\\.k8s\\.io/sig-storage|k8s\\.gcr\\.io/sig-storage|gcr\\.io/k8s-staging-sig-storage)/nfs-subdir-external-provisioner$|^quay\\.io/external_storage/nfs-client-provisioner(-arm)?$" $repository -}}
{{- if $old -}}
{{- $repository = "berth" -}}
{{- $tag = "" -}}
{{- else if regexMatch "(^|/)nfs-(subdir-external|client)-provisioner(-arm)?$" $repository -}}
{{- fail (printf "image.repository is %q, the image of the old provisioner; push berth's image to your registry and name that, and remove image.tag" $repository) -}}
{{- end -}}
{{- if and (regexMatch "^v[234]\\." $tag) (eq $repository "berth") -}}
{{- $tag = "" -}}
{{- end -}}
{{- with (.Values.global).imageRegistry -}}
{{- $parts := splitList "/" $repository -}}
{{- if and (gt (len $parts) 1) (regexMatch "[.:]|^localhost$" (first $parts)) -}}
{{- $repository = join "/" (rest $parts) -}}
{{- end -}}
{{- $repository = printf "%s/%s" (trimSuffix "/" .) $repository -}}
{{- end -}}
{{- if $image.digest -}}
{{- $repository -}}@{{- $image.digest -}}
{{- else -}}
{{- $repository -}}:{{- default .Chart.AppVersion $tag -}}
{{- end -}}
{{- end -}}

{{/* `over` on top of `base`: each key of `over` replaces the key of `base` as a whole, also where its value is empty or false. */}}
{{- define "berth.over" -}}
{{- $merged := deepCopy .base -}}
{{- range $key, $value := .over | default dict -}}
{{- $_ := set $merged $key $value -}}
{{- end -}}
{{- toYaml $merged -}}
{{- end -}}

{{/* The PersistentVolume and the claim by which a pod mounts an export with options. They were immutable objects of the old
     chart; a change here would stop the upgrade of an old release. */}}
{{- define "berth.rootVolume" -}}
apiVersion: v1
kind: PersistentVolume
metadata:
  name: pv-{{ .name }}
  labels:
    {{- include "berth.labels" .root | nindent 4 }}
    nfs-subdir-external-provisioner: {{ include "berth.rootLabel" . }}
spec:
  capacity:
    storage: 10Mi
  volumeMode: Filesystem
  accessModes:
    - {{ .accessModes }}
  persistentVolumeReclaimPolicy: {{ .reclaimPolicy }}
  storageClassName: ""
  {{- if .reserved }}
  # No other claim without a class may bind it: it shows the whole export.
  claimRef:
    apiVersion: v1
    kind: PersistentVolumeClaim
    namespace: {{ .root.Release.Namespace }}
    name: pvc-{{ .name }}
  {{- end }}
  mountOptions:
    {{- toYaml .mountOptions | nindent 4 }}
  nfs:
    server: {{ .server | quote }}
    path: {{ .path | quote }}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: pvc-{{ .name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "berth.labels" .root | nindent 4 }}
spec:
  accessModes:
    - {{ .accessModes }}
  volumeMode: Filesystem
  storageClassName: ""
  selector:
    matchLabels:
      nfs-subdir-external-provisioner: {{ include "berth.rootLabel" . }}
  resources:
    requests:
      storage: 10Mi
{{- end -}}

{{/* By which the claim finds its volume: the name, unless that is too long for a label. */}}
{{- define "berth.rootLabel" -}}
{{- if gt (len .name) 63 -}}{{- sha256sum .name | trunc 63 -}}{{- else -}}{{- .name -}}{{- end -}}
{{- end -}}

{{/* A StorageClass from a dict with its fields. */}}
{{- define "berth.class" -}}
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata:
  name: {{ .name }}
  labels:
    {{- include "berth.labels" .root | nindent 4 }}
  {{- $annotations := dict }}
  {{- if .defaultClass }}
  {{- $_ := set $annotations "storageclass.kubernetes.io/is-default-class" "true" }}
  {{- end }}
  {{- range $key, $value := .annotations }}
  {{- $_ := set $annotations $key (toString $value) }}
  {{- end }}
  {{- with $annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
provisioner: {{ .provisioner }}
reclaimPolicy: {{ .reclaimPolicy }}
volumeBindingMode: {{ .volumeBindingMode }}
allowVolumeExpansion: {{ .allowVolumeExpansion }}
{{- with .parameters }}
parameters:
  {{- range $key, $value := . }}
  {{ $key }}: {{ toString $value | quote }}
  {{- end }}
{{- end }}
{{- with .mountOptions }}
mountOptions:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .allowedTopologies }}
allowedTopologies:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* One, where the value is left blank; nothing is served only where the values say 0. */}}
{{- define "berth.replicas" -}}
{{- if kindIs "invalid" .Values.replicaCount -}}1{{- else -}}{{- int .Values.replicaCount -}}{{- end -}}
{{- end -}}

{{/* What the schema cannot check. Each message says what to write instead. */}}
{{- define "berth.validate" -}}
{{- if not (or (include "berth.exports" .) (include "berth.ceph" .)) -}}
{{- fail "there is no storage to serve: set nfs.server (one export, as in the old chart), exports (several) or clusters (Ceph)" -}}
{{- end -}}
{{- if not (dig "enabled" true (.Values.leaderElection | default dict)) -}}
{{- if gt (include "berth.replicas" . | int) 1 -}}
{{- fail (printf "leaderElection.enabled is false and replicaCount is %d: two processes without a lock would destroy each other's volumes; write replicaCount: 1 or leaderElection.enabled: true" (int .Values.replicaCount)) -}}
{{- end -}}
{{- if ne (.Values.strategyType | default "Recreate") "Recreate" -}}
{{- fail (printf "leaderElection.enabled is false and strategyType is %s: an upgrade would run two processes without a lock; write strategyType: Recreate or leaderElection.enabled: true" .Values.strategyType) -}}
{{- end -}}
{{- end -}}
{{- $exports := list -}}
{{- if (.Values.nfs).server -}}{{- $exports = append $exports "default" -}}{{- end -}}
{{- range .Values.exports -}}
{{- if has .name $exports -}}
{{- fail (printf "exports names %q twice%s; every export needs a name of its own" .name (ternary " (nfs.server is the export \"default\")" "" (eq .name "default"))) -}}
{{- end -}}
{{- $exports = append $exports .name -}}
{{- end -}}
{{- $clusters := list -}}
{{- range .Values.clusters -}}
{{- if has .name $clusters -}}
{{- fail (printf "clusters names %q twice; every cluster needs a name of its own" .name) -}}
{{- end -}}
{{- $clusters = append $clusters .name -}}
{{- end -}}
{{- if has (include "berth.provisioner" (dict "root" . "kind" "nfs")) (list "rbd.berth.storage" "cephfs.berth.storage" "ceph.com/rbd" "ceph.com/cephfs" "kubernetes.io/rbd") -}}
{{- fail (printf "provisioners.nfs is %q, which stands for Ceph; write nfs.berth.storage or a name of your own" .Values.provisioners.nfs) -}}
{{- end -}}
{{- range $values, $labels := dict "labels" .Values.labels "podLabels" .Values.podLabels "node.podLabels" (.Values.node).podLabels -}}
{{- range $own := list "app" "release" -}}
{{- if hasKey ($labels | default dict) $own -}}
{{- fail (printf "%s has the label %q, by which the chart selects its pods; choose another name" $values $own) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $served := include "berth.served" . | fromJsonArray -}}
{{- $classes := list -}}
{{- if and (.Values.nfs).server (dig "create" true (.Values.storageClass | default dict)) -}}
{{- $classes = append $classes .Values.storageClass.name -}}
{{- end -}}
{{- range .Values.storageClasses -}}
{{- if has .name $classes -}}
{{- fail (printf "two StorageClasses are called %q; rename one of storageClasses, or set storageClass.create: false" .name) -}}
{{- end -}}
{{- $classes = append $classes .name -}}
{{- if not (has .provisioner $served) -}}
{{- fail (printf "the provisioner %q of storageClasses %q is not served; write one of %s, or add it to provisionerNames" .provisioner .name (join ", " $served)) -}}
{{- end -}}
{{- $class := . -}}
{{- $parameters := .parameters | default dict -}}
{{- with $parameters.export -}}
{{- if not (has . $exports) -}}
{{- fail (printf "the parameter export of storageClasses %q is %q, which is none of exports (%s)" $class.name . (join ", " $exports)) -}}
{{- end -}}
{{- end -}}
{{- with $parameters.clusterID -}}
{{- if and $clusters (not (has . $clusters)) -}}
{{- fail (printf "the parameter clusterID of storageClasses %q is %q, which is none of clusters (%s)" $class.name . (join ", " $clusters)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
