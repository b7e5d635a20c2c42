# Facts of the environment prod. Node types and sizes are in ../node-groups.yaml; what belongs to one installation
# (people, budget) is in prod.local.tfvars, copied from local.tfvars.example.
environment              = "prod"
region                   = "us-east-1"
zone_letters             = ["a", "b", "c"]
vpc_cidr                 = "10.50.0.0/16"
nat_strategy             = "per_zone"
interface_endpoint_zones = 3
kubernetes_version       = "1.35"
deletion_protection      = true
node_autoscaler          = true
force_destroy            = false
