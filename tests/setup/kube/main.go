// What the tests build of Kubernetes: the imports keep its modules in go.mod and go.sum.
package main

import (
	_ "k8s.io/kubectl/pkg/cmd"
	_ "k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() {}
