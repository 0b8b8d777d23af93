{{- define "regproxy.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* 52 characters: the controller appends "-0" and a hash of 10 to it, in labels of 63. */}}
{{- define "regproxy.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains (include "regproxy.name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "regproxy.name" .) | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* What finds the objects of this release; never changed, since a StatefulSet's selector can't be. */}}
{{- define "regproxy.selector" -}}
app.kubernetes.io/name: {{ include "regproxy.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "regproxy.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "regproxy.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "regproxy.image" -}}
{{- $image := .Values.image -}}
{{- $repository := required "image.repository: name where you have pushed the image that `docker build` makes" $image.repository -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $repository $image.digest }}
{{- else -}}
{{- printf "%s:%s" $repository (default .Chart.AppVersion $image.tag) }}
{{- end }}
{{- end }}

{{- define "regproxy.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "regproxy.fullname" .) .Values.serviceAccount.name }}
{{- else -}}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* The Secret with the CA; "" where the proxy keeps one of its own on a volume. */}}
{{- define "regproxy.caSecret" -}}
{{- if .Values.ca.certManager.enabled -}}
{{- printf "%s-ca" (include "regproxy.fullname" .) }}
{{- else -}}
{{- .Values.ca.existingSecret }}
{{- end }}
{{- end }}

{{/* Refuse values that contradict each other, which a schema can't tell. */}}
{{- define "regproxy.check" -}}
{{- $ca := .Values.ca -}}
{{- if and $ca.existingSecret $ca.certManager.enabled }}
{{- fail "ca: set existingSecret or certManager.enabled, not both" }}
{{- end }}
{{- if and (gt (int .Values.replicas) 1) (not (include "regproxy.caSecret" .)) }}
{{- fail "replicas: several have to share a CA, or clients trust one of them only: set ca.existingSecret or ca.certManager.enabled" }}
{{- end }}
{{- if and (gt (int .Values.replicas) 1) .Values.cache.persistence.existingClaim }}
{{- fail "cache.persistence.existingClaim: one claim is for one replica; each has a cache of its own" }}
{{- end }}
{{- if and .Values.config.toml .Values.config.existingSecret }}
{{- fail "config: set toml or existingSecret, not both" }}
{{- end }}
{{- if and .Values.upstreamCA.configMap .Values.upstreamCA.secret }}
{{- fail "upstreamCA: set configMap or secret, not both" }}
{{- end }}
{{- $values := dict "REGISTRIES" "registries" "REGPROXY_LISTEN" "ports.proxy" "REGPROXY_ADMIN_LISTEN" "ports.admin" "REGPROXY_DRAIN_TIMEOUT" "drainTimeout" "CACHE_MAX_SIZE" "cache.maxSize" "REGPROXY_CACHE_DIR" "cache.persistence" "REGPROXY_CA_DIR" "ca" "CA_CRT_FILE" "ca.existingSecret" "CA_KEY_FILE" "ca.existingSecret" "REGPROXY_CA_PASSPHRASE_FILE" "ca.passphraseSecret" "REGPROXY_UPSTREAM_CA_FILE" "upstreamCA" "REGPROXY_DOCKER_CONFIG" "credentials.dockerConfigSecret" "AUTH_REGISTRIES" "credentials.authRegistriesSecret" "REGPROXY_HTPASSWD" "htpasswd" "REGPROXY_ADMIN_TOKEN_FILE" "adminToken" "REGPROXY_ADMIN_READ_TOKEN_FILE" "adminToken" "REGPROXY_CONFIG" "config" }}
{{- range $name, $value := .Values.settings }}
{{- with get $values $name }}
{{- fail (printf "settings.%s: set the chart's own value %s instead" $name .) }}
{{- end }}
{{- end }}
{{- end }}
