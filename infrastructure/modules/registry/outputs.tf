output "repository_urls" {
  description = "URL by repository name."
  value       = { for name, repository in aws_ecr_repository.this : name => repository.repository_url }
}
