// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/holdfast-ha/holdfast/leases"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// sealedIn collects what is sealed or hashed in a record.
func sealedIn(v any, out *[]string) {
	switch v := v.(type) {
	case map[string]any:
		for name, x := range v {
			if s, ok := x.(string); ok && s != notShown && (name == "sealed" || name == "hash") {
				*out = append(*out, s)
			}
			sealedIn(x, out)
		}
	case []any:
		for _, x := range v {
			sealedIn(x, out)
		}
	}
}

// TestSupportShowsNoSecret: a fleet with every kind of secret is told to those who help
// without one of them; what they need is there.
func TestSupportShowsNoSecret(t *testing.T) {
	v := newVault(t)
	w, c := v.sealing(t, "w1", v.ring, nil)
	eventually(t, "w1 is ready", func() bool {
		w.mu.Lock()
		joined := w.session != nil
		w.mu.Unlock()
		return joined && (*backend)(w).Ready() == nil
	})
	secrets := []string{"kanarie-bmc", "kanarie-param", "kanarie-url", "kanarie-key-0123456789", "kanarie-arg", "kanarie-env", "pw-of-etcd"}
	try := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	v.put(t, leases.HostSpecKey("h1"), v1.HostSpec{V: 1, ID: "h1", Partition: cluster, Provider: "kvm", Why: "https://ann:kanarie-url@example.com", Power: []v1.Device{
		{Name: "bmc", Driver: "ipmi", Address: "127.0.0.1:1", User: "op", Secret: "sealed"},
		{Name: "pdu", Driver: "exec", Level: 2, Secret: "kanarie-env", Params: map[string]string{"community": "kanarie-param"}},
	}})
	eventually(t, "h1 is known", func() bool { _, err := c.Host(t.Context(), "h1"); return err == nil })
	_, err := c.PutSecret(t.Context(), "h1", "bmc", v1.SecretRequest{Password: v1.Password("kanarie-bmc"), NoTest: true}, -1)
	try("secret", err)
	token, err := c.CreateToken(t.Context(), v1.TokenRequest{Name: "ci", Role: v1.Viewer, For: "1h"})
	try("token", err)
	// A worker on plaintext makes neither of these; on record they are alike.
	v.put(t, leases.JoinKey("j1"), map[string]any{"v": 1, "hash": "kanarie-hash-of-join-token", "host": "h1"})
	key, err := w.ring.Ring().Seal(leases.AuthorityKey("a1"), []byte("kanarie-authority"))
	try("seal", err)
	v.put(t, leases.AuthorityKey("a1"), map[string]any{"v": 1, "cert": "MIIB", "sealed": key})
	_, err = c.PutHook(t.Context(), "web", v1.HookRequest{HookSpec: v1.HookSpec{Kind: v1.HookWeb}, URL: v1.Password("http://127.0.0.1:1/kanarie-url"), Key: v1.Password("kanarie-key-0123456789")}, 0)
	try("webhook", err)
	_, err = c.PutHook(t.Context(), "program", v1.HookRequest{HookSpec: v1.HookSpec{Kind: v1.HookExec, Target: "/nonexistent/hook", Args: []string{"kanarie-arg"}}}, 0)
	try("program", err)
	secrets = append(secrets, token.Secret, "kanarie-authority")
	kvs, _, err := v.client.List(t.Context(), leases.Root)
	try("list etcd", err)
	for _, kv := range kvs {
		var x any
		try(kv.Key, json.Unmarshal(kv.Value, &x))
		sealedIn(x, &secrets)
	}
	if len(secrets) < 13 {
		t.Fatalf("the fleet has %d secrets only: %v", len(secrets), secrets)
	}

	var told []string
	tell := func(x any, err error) {
		t.Helper()
		try("support", err)
		b, err := json.Marshal(x)
		try("encode", err)
		told = append(told, string(b))
	}
	tell(c.Support(t.Context(), "w1", true))
	kinds := map[string]bool{}
	for _, d := range leases.Schema {
		kind, _, _ := strings.Cut(d.Pattern, "/")
		if kinds[kind] {
			continue
		}
		kinds[kind] = true
		tell(c.Records(t.Context(), kind))
	}
	all := strings.Join(told, "\n")
	for _, s := range secrets {
		if s == "" || strings.Contains(all, s) {
			t.Errorf("secret %q is told: …%s…", s, around(all, s))
		}
	}
	for _, s := range []string{`"worker":"w1"`, "goroutine profile", "holdfast_build_info", `"revision":`, `"/holdfast/v1/hosts/h1/spec"`, `"(not shown)"`, `"secret":"sealed"`, `"version":"3.`} {
		if !strings.Contains(all, s) {
			t.Errorf("what helps is not told: %s", s)
		}
	}
	if _, err := c.Records(t.Context(), "host"); err == nil || !strings.Contains(err.Error(), `kind: "host", allowed are areas`) {
		t.Errorf("a kind that is none: %v", err)
	}
}

func around(all, s string) string {
	i := max(0, strings.Index(all, s))
	return fmt.Sprintf("%.200s", all[max(0, i-60):])
}

// Secrets are known by their looks where no field says what they are.
func TestRedactByLooks(t *testing.T) {
	for in, want := range map[string]string{
		`{"text":"holdfast:enc:aesgcm:v1:k1:AAECAw== is sealed"}`:                      `{"text":"(not shown) is sealed"}`,
		`{"text":"token hft.1a2b.c3d4-x"}`:                                             `{"text":"token (not shown)"}`,
		`{"text":"-----BEGIN EC PRIVATE KEY-----\nAAA\n-----END EC PRIVATE KEY-----"}`: `{"text":"(not shown)"}`,
		`{"text":"https://ann:pw@example.com/"}`:                                       `{"text":"https://(not shown)@example.com/"}`,
		`{"secret":"env:BMC","other":{"secret":"plain"}}`:                              `{"other":{"secret":"(not shown)"},"secret":"env:BMC"}`,
		`{"params":{"a":"b"},"args":["x"],"hash":"","n":1}`:                            `{"args":"(not shown)","hash":"","n":1,"params":"(not shown)"}`,
		`not json`: `"(not shown)"`,
	} {
		if got := string(redacted([]byte(in))); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}
