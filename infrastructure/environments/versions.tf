terraform {
  required_version = ">= 1.11"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 6.69"
    }
  }

  # One state per environment: scripts/cluster-up passes the path at init. backend_override.tf moves states to S3.
  backend "local" {}
}

provider "aws" {
  region = var.region
}
