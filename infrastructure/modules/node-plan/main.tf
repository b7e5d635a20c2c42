# Node groups of one environment, one per zone, from infrastructure/node-groups.yaml. Arithmetic only: no provider.

locals {
  pools = yamldecode(file("${path.module}/../../node-groups.yaml"))[var.environment]

  groups = {
    for pool, facts in local.pools : pool => {
      for index in range(facts.zones) : var.zone_letters[index] => {
        zone_index     = index
        instance_types = facts.instance_types
        capacity_type  = facts.capacity_type
        max_pods       = facts.max_pods
        # An even share of the whole; the first zones take the remainder.
        size = {
          for bound, nodes in facts.size : bound => floor(nodes / facts.zones) + (index < nodes % facts.zones ? 1 : 0)
        }
      }
    }
  }
}
