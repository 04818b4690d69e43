// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"crypto/sha256"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

var render = flag.Bool("render", false, "render the chart anew with helm into deploy/kubernetes")

// renderings are the committed outputs of the chart and the values behind each.
var renderings = map[string]string{
	"holdfast.yaml": "replicas=3",
	"holdfast-all-options.yaml": "monitoring.enabled=true,tls.certManager.issuer=fleet,hostNetwork=true,etcd.secretName=etcd-client,keyRingSecret=ring," +
		"bmcSecret=bmc,service.agents.advertise=worker-%d.example,service.agents.type=NodePort",
}

// Types of others' resources have no module here: the fields that we use, strictly.
type (
	custom struct {
		metav1.TypeMeta   `json:",inline"`
		metav1.ObjectMeta `json:"metadata"`
	}
	secretKey      struct{ Name, Key string }
	serviceMonitor struct {
		custom
		Spec struct {
			JobLabel  string               `json:"jobLabel"`
			Selector  metav1.LabelSelector `json:"selector"`
			Endpoints []struct {
				Port        string `json:"port"`
				Scheme      string `json:"scheme"`
				Path        string `json:"path"`
				Interval    string `json:"interval"`
				Relabelings []struct {
					SourceLabels []string `json:"sourceLabels"`
					Regex        string   `json:"regex"`
					Action       string   `json:"action"`
				} `json:"relabelings"`
				TLSConfig struct {
					ServerName string                     `json:"serverName"`
					CA         struct{ Secret secretKey } `json:"ca"`
					Cert       struct{ Secret secretKey } `json:"cert"`
					KeySecret  secretKey                  `json:"keySecret"`
				} `json:"tlsConfig"`
			} `json:"endpoints"`
		} `json:"spec"`
	}
	prometheusRule struct {
		custom
		Spec ruleFile `json:"spec"`
	}
	certificate struct {
		custom
		Spec struct {
			SecretName  string   `json:"secretName"`
			CommonName  string   `json:"commonName"`
			URIs        []string `json:"uris"`
			DNSNames    []string `json:"dnsNames"`
			Usages      []string `json:"usages"`
			Duration    string   `json:"duration"`
			RenewBefore string   `json:"renewBefore"`
			PrivateKey  struct {
				RotationPolicy string `json:"rotationPolicy"`
				Algorithm      string `json:"algorithm"`
				Size           int    `json:"size"`
			} `json:"privateKey"`
			IssuerRef struct{ Name, Kind string } `json:"issuerRef"`
		} `json:"spec"`
	}
)

func fresh(apiVersion, kind string) any {
	switch apiVersion + "/" + kind {
	case "v1/Service":
		return &corev1.Service{}
	case "v1/ServiceAccount":
		return &corev1.ServiceAccount{}
	case "v1/ConfigMap":
		return &corev1.ConfigMap{}
	case "apps/v1/StatefulSet":
		return &appsv1.StatefulSet{}
	case "policy/v1/PodDisruptionBudget":
		return &policyv1.PodDisruptionBudget{}
	case "networking.k8s.io/v1/NetworkPolicy":
		return &networkingv1.NetworkPolicy{}
	case "monitoring.coreos.com/v1/ServiceMonitor":
		return &serviceMonitor{}
	case "monitoring.coreos.com/v1/PrometheusRule":
		return &prometheusRule{}
	case "cert-manager.io/v1/Certificate":
		return &certificate{}
	}
	return nil
}

// manifests decodes a rendering, each document strictly into its type.
func manifests(t *testing.T, file string) (out []any) {
	t.Helper()
	for i, doc := range strings.Split(readFile(t, "deploy", "kubernetes", file), "\n---\n") {
		var m metav1.TypeMeta
		if err := yaml.Unmarshal([]byte(doc), &m); err != nil {
			t.Fatalf("%s, document %d: %v", file, i, err)
		}
		if m.Kind == "" {
			continue
		}
		obj := fresh(m.APIVersion, m.Kind)
		if obj == nil {
			t.Fatalf("%s: no type for %s %s", file, m.APIVersion, m.Kind)
		}
		if err := yaml.UnmarshalStrict([]byte(doc), obj); err != nil {
			t.Errorf("%s: %s: %v", file, m.Kind, err)
		}
		out = append(out, obj)
	}
	return out
}

// Every rendered object decodes strictly, all carry the recommended labels.
func TestManifestsDecode(t *testing.T) {
	for file := range renderings {
		kinds := map[string]int{}
		for _, o := range manifests(t, file) {
			kinds[strings.TrimPrefix(fmt.Sprintf("%T", o), "*")]++
			if l := o.(metav1.Object).GetLabels(); l["app.kubernetes.io/name"] != "holdfast" || l["app.kubernetes.io/part-of"] != "holdfast" {
				t.Errorf("%s: %T: labels %v", file, o, l)
			}
			if n := o.(metav1.Object).GetNamespace(); n != "holdfast" {
				t.Errorf("%s: %T: namespace %q", file, o, n)
			}
		}
		for _, k := range []string{"v1.Service", "v1.StatefulSet", "v1.PodDisruptionBudget", "v1.NetworkPolicy"} {
			if kinds[k] == 0 {
				t.Errorf("%s has no %s: %v", file, k, kinds)
			}
		}
		if all := strings.Contains(file, "all"); all != (kinds["deploy.serviceMonitor"]+kinds["deploy.prometheusRule"] == 2) || all != (kinds["deploy.certificate"] == 3) {
			t.Errorf("%s: optional objects: %v", file, kinds)
		}
	}
}

// Pods run as libraries.md §7 says: no privilege, no token, memory limit as request, no
// CPU limit, secrets as files; and liveness never depends on etcd.
func TestStatefulSet(t *testing.T) {
	for file := range renderings {
		for _, o := range manifests(t, file) {
			s, ok := o.(*appsv1.StatefulSet)
			if !ok {
				continue
			}
			pod := s.Spec.Template.Spec
			c := pod.Containers[0]
			sec := c.SecurityContext
			switch {
			case *s.Spec.Replicas != 3 || s.Spec.PodManagementPolicy != appsv1.ParallelPodManagement:
				t.Error("replicas or pod management")
			case pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken:
				t.Error("a service account's token is mounted")
			case !*pod.SecurityContext.RunAsNonRoot || pod.SecurityContext.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault:
				t.Error("pod's security context")
			case *sec.AllowPrivilegeEscalation || !*sec.ReadOnlyRootFilesystem || !slices.Equal(sec.Capabilities.Drop, []corev1.Capability{"ALL"}):
				t.Error("container's security context")
			case c.Resources.Limits.Memory().Cmp(*c.Resources.Requests.Memory()) != 0 || !c.Resources.Limits.Cpu().IsZero() || c.Resources.Requests.Cpu().IsZero():
				t.Error("resources: memory limit must be the request, CPU requested and not limited")
			case c.LivenessProbe.HTTPGet.Path != "/healthz" || c.StartupProbe.HTTPGet.Path != "/healthz":
				t.Error("liveness and startup must not depend on etcd")
			case c.StartupProbe.FailureThreshold*c.StartupProbe.PeriodSeconds < 1800:
				t.Error("an outage of etcd would restart workers that wait for it")
			case c.ReadinessProbe.HTTPGet.Path != "/readyz":
				t.Error("readiness")
			case len(pod.TopologySpreadConstraints) != 2 || *pod.TerminationGracePeriodSeconds < 30:
				t.Error("spread or grace")
			case s.Spec.Template.Annotations["checksum/config"] == "":
				t.Error("a changed configuration would not restart workers")
			}
			for _, e := range c.Env {
				if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
					t.Errorf("secret in the environment: %s", e.Name)
				}
			}
			workerAccepts(t, o, manifests(t, file), c.Args)
		}
	}
}

// workerAccepts asks the worker itself: arguments and configuration must be known.
func workerAccepts(t *testing.T, _ any, all []any, args []string) {
	t.Helper()
	dir := t.TempDir()
	for _, o := range all {
		if m, ok := o.(*corev1.ConfigMap); ok {
			if err := os.WriteFile(filepath.Join(dir, "worker.yaml"), []byte(m.Data["worker.yaml"]), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	r := strings.NewReplacer("/etc/holdfast/config", dir, "/etc/holdfast/tls/$(POD_NAME)", dir, "$(POD_NAME)", "holdfast-worker-0", "$(POD_INDEX)", "0")
	for i := range args {
		args[i] = r.Replace(args[i])
	}
	out, err := exec.CommandContext(t.Context(), program(t, "holdfast-worker"), args...).CombinedOutput()
	// All that may be missing here are the certificates.
	if err == nil || !strings.Contains(string(out), dir+"/ca.crt") || strings.Count(string(out), "Error") != 1 {
		t.Errorf("worker says %v: %s", err, out)
	}
}

// The committed manifests are what the chart renders: by checksum, so that nobody needs
// helm to run the tests; `make chart` renders and writes the sum.
func TestChartRendered(t *testing.T) {
	if *render {
		for file, values := range renderings {
			cmd := exec.CommandContext(t.Context(), "helm", "template", "holdfast", repo("deploy", "helm", "holdfast"), "--namespace", "holdfast", "--kube-version", "1.31.0", "--set", values)
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%v: %v", cmd, err)
			}
			if err := os.WriteFile(repo("deploy", "kubernetes", file), out, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	h := sha256.New()
	for _, dir := range []string{repo("deploy", "helm", "holdfast"), repo("deploy", "kubernetes")} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || d.Type()&fs.ModeSymlink != 0 || strings.HasSuffix(path, ".sum") || strings.HasSuffix(path, ".md") {
				return err
			}
			text, err := os.ReadFile(path)
			fmt.Fprintf(h, "%s %d\n%s", filepath.Base(path), len(text), text)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"alerts.yaml", "rules.yaml"} {
		fmt.Fprint(h, readFile(t, "deploy", "mixin", f))
	}
	for _, file := range slices.Sorted(func(yield func(string) bool) {
		for f, v := range renderings {
			if !yield(f + v) {
				return
			}
		}
	}) {
		fmt.Fprintln(h, file)
	}
	sum := fmt.Sprintf("%x\n", h.Sum(nil))
	if *render {
		if err := os.WriteFile(repo("deploy", "kubernetes", "chart.sum"), []byte(sum), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if have := readFile(t, "deploy", "kubernetes", "chart.sum"); have != sum {
		t.Error("chart, mixin or rendered manifests were changed: `make chart` renders them anew")
	}
}

// Images are built from nothing, run as a number that is not root, and start a program
// that needs no C library.
func TestImages(t *testing.T) {
	for file, name := range map[string]string{"worker.Dockerfile": "holdfast-worker", "cli.Dockerfile": "holdfast"} {
		text := readFile(t, "deploy", "docker", file)
		for _, want := range []string{"CGO_ENABLED=0 go build", "./cmd/" + name + "\n", "FROM scratch\n", "USER 65532:65532\n", fmt.Sprintf("ENTRYPOINT [%q]", "/"+name), "COPY --from=build /out/" + name + " /" + name + "\n"} {
			if !strings.Contains(text, want) {
				t.Errorf("%s lacks %q", file, want)
			}
		}
		version := strings.TrimSpace(strings.SplitN(strings.SplitN(text, "FROM golang:", 2)[1], " ", 2)[0])
		if mod := readFile(t, "go.mod"); !strings.Contains(mod, "\ngo "+version+".") {
			t.Errorf("%s builds with go %s, go.mod says another", file, version)
		}
		static(t, program(t, name))
	}
}
