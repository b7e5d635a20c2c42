terraform {
  required_version = ">= 1.11"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 6.69"
    }
  }

  # One state per account and region. backend_override.tf moves it to S3.
  backend "local" {}
}

provider "aws" {
  region = var.region
}
