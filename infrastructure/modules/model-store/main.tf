# Where the engines read their weights from. Nothing here expires: only replaced versions do.

module "bucket" {
  source = "../private-bucket"

  name            = var.bucket_name
  noncurrent_days = 30
  force_destroy   = var.force_destroy
  tags            = var.tags
}
