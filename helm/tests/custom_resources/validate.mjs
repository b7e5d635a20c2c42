// Reads manifests as JSON lines and answers each with what its schema says against it, or null.
import readline from "node:readline";
import * as monitoring from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1";
import * as certificates from "@kubernetes-models/cert-manager/cert-manager.io/v1";
import * as keda from "@kubernetes-models/keda/keda.sh/v1alpha1";
import * as gateway from "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1";

const groups = {
  "monitoring.coreos.com/v1": monitoring,
  "keda.sh/v1alpha1": keda,
  "cert-manager.io/v1": certificates,
  "gateway.networking.k8s.io/v1": gateway,
};

for await (const line of readline.createInterface({ input: process.stdin })) {
  const manifest = JSON.parse(line);
  const Kind = groups[manifest.apiVersion]?.[manifest.kind];
  let wrong = Kind ? null : `no schema of ${manifest.apiVersion} ${manifest.kind}`;
  try {
    if (Kind) new Kind(manifest).validate();
  } catch (error) {
    wrong = error.message;
  }
  console.log(JSON.stringify(wrong));
}
