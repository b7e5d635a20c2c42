# Facts of the environment dev. Node types and sizes are in ../node-groups.yaml; what belongs to one installation
# (people, budget) is in dev.local.tfvars, copied from local.tfvars.example.
environment              = "dev"
region                   = "us-east-1"
zone_letters             = ["a", "b", "c"]
vpc_cidr                 = "10.40.0.0/16"
nat_strategy             = "single"
interface_endpoint_zones = 1
kubernetes_version       = "1.35"
deletion_protection      = false
node_autoscaler          = false
force_destroy            = true
