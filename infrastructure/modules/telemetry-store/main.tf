# Where Loki keeps logs and Tempo keeps traces; both expire.

module "logs" {
  source = "../private-bucket"

  name            = var.logs_bucket_name
  expire_days     = var.logs_days
  noncurrent_days = 7
  force_destroy   = var.force_destroy
  tags            = var.tags
}

module "traces" {
  source = "../private-bucket"

  name            = var.traces_bucket_name
  expire_days     = var.traces_days
  noncurrent_days = 7
  force_destroy   = var.force_destroy
  tags            = var.tags
}
