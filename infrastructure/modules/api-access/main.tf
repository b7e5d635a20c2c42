# Decides whether the Kubernetes API endpoint has a public side, and for whom. Knows no provider.

locals {
  public = length(var.api_access_cidrs) > 0
}
