// docker buildx bake -f deploy/docker-bake.hcl            both images for this machine
// docker buildx bake -f deploy/docker-bake.hcl --push release     for amd64 and arm64, to NAME
variable "NAME" { default = "regproxy" }
variable "VERSION" { default = "0.1.0" }
variable "REVISION" { default = "" }            // git rev-parse HEAD
variable "SOURCE" { default = "" }              // URL of the repository
variable "SOURCE_DATE_EPOCH" { default = "" }   // git log -1 --format=%ct

group "default" { targets = ["regproxy", "debug"] }
group "release" { targets = ["regproxy-release", "debug-release"] }

target "common" {
  context = "."
  args = { SOURCE_DATE_EPOCH = SOURCE_DATE_EPOCH }
  labels = {
    "org.opencontainers.image.version"  = VERSION
    "org.opencontainers.image.revision" = REVISION
    "org.opencontainers.image.source"   = SOURCE
  }
}

target "regproxy" {
  inherits = ["common"]
  target   = "regproxy"
  tags     = ["${NAME}:${VERSION}", "${NAME}:latest"]
}

target "debug" {
  inherits = ["common"]
  target   = "debug"
  tags     = ["${NAME}:${VERSION}-debug", "${NAME}:debug"]
}

target "regproxy-release" {
  inherits  = ["regproxy"]
  platforms = ["linux/amd64", "linux/arm64"]
}

target "debug-release" {
  inherits  = ["debug"]
  platforms = ["linux/amd64", "linux/arm64"]
}
