output "bucket_name" {
  description = "Name of the bucket of model weights."
  value       = module.bucket.name
}

output "bucket_arn" {
  description = "Its ARN."
  value       = module.bucket.arn
}
