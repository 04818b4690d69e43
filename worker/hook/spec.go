// SPDX-License-Identifier: Apache-2.0

package hook

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

const (
	defaultTimeout  = 10 * time.Second
	defaultRetryMax = 5 * time.Minute
	defaultFailures = 20
	defaultAfter    = 24 * time.Hour
	defaultSource   = "/holdfast"

	minKey, maxKey = 16, 256 // bytes of a signing key
	maxURL         = 2048
	maxCA          = 64 << 10
	maxList        = 64 // entries of a filter, arguments of a program
)

// Config is a spec with its defaults filled in.
type Config struct {
	v1.HookSpec
	Timeout, RetryMax, After time.Duration
	Failures                 int
}

// Parse checks a spec and fills in what it leaves out. The error names the field, the
// value and what is allowed; field prefixes nothing.
func Parse(s v1.HookSpec) (Config, error) {
	c := Config{HookSpec: s, Failures: s.DisableFailures}
	var err error
	duration := func(field, text string, or, low, high time.Duration) time.Duration {
		if text == "" {
			return or
		}
		d, perr := time.ParseDuration(text)
		if (perr != nil || d < low || d > high) && err == nil {
			err = v1.BadField(field, "%q, allowed are durations of %v to %v", text, low, high)
		}
		return d
	}
	c.Timeout = duration("timeout", s.Timeout, defaultTimeout, time.Second, time.Minute)
	c.RetryMax = duration("retryMax", s.RetryMax, defaultRetryMax, time.Second, time.Hour)
	c.After = duration("disableAfter", s.DisableAfter, defaultAfter, time.Minute, 7*24*time.Hour)
	if c.Failures == 0 {
		c.Failures = defaultFailures
	}
	if c.Source == "" {
		c.Source = defaultSource
	}
	if err != nil {
		return c, err
	}
	if c.Failures < 1 || c.Failures > 10_000 {
		return c, v1.BadField("disableFailures", "%d, allowed are 1 to 10000", s.DisableFailures)
	}
	if u, perr := url.Parse(c.Source); perr != nil || len(c.Source) > 256 || u.User != nil || strings.ContainsFunc(c.Source, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return c, v1.BadField("source", "%q, allowed is a URI reference of at most 256 bytes such as /holdfast/berlin", c.Source)
	}
	if err := checkKind(s); err != nil {
		return c, err
	}
	return c, checkFilters(s)
}

func checkKind(s v1.HookSpec) error {
	switch s.Kind {
	case v1.HookWeb:
		if len(s.Args) > 0 {
			return v1.BadField("args", "%d given, allowed with kind exec only", len(s.Args))
		}
		if s.CA != "" && (len(s.CA) > maxCA || !x509.NewCertPool().AppendCertsFromPEM([]byte(s.CA))) {
			return v1.BadField("ca", "%d bytes without a certificate that can be read, allowed is PEM of at most %d", len(s.CA), maxCA)
		}
	case v1.HookExec:
		if !filepath.IsAbs(s.Target) || filepath.Clean(s.Target) != s.Target || len(s.Target) > 1024 {
			return v1.BadField("target", "%q, allowed with kind exec is a clean absolute path", s.Target)
		}
		if s.CA != "" {
			return v1.BadField("ca", "%d bytes, allowed with kind webhook only", len(s.CA))
		}
		if len(s.Args) > maxList {
			return v1.BadField("args", "%d, allowed are at most %d", len(s.Args), maxList)
		}
		for _, a := range s.Args {
			if len(a) > 1024 || strings.ContainsRune(a, 0) {
				return v1.BadField("args", "%.40q, allowed are at most 1024 bytes without a zero byte", a)
			}
		}
	default:
		return v1.BadField("kind", "%q, allowed are %s and %s", s.Kind, v1.HookWeb, v1.HookExec)
	}
	return nil
}

var (
	typePattern  = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{0,62}(\.\*)?$`)
	scopePattern = regexp.MustCompile(`^(global|zone/[^/]+|pod/[^/]+/[^/]+|cluster/[^/]+/[^/]+/[^/]+|host/[^/]+)$`)
	severities   = []string{"info", "warning", "page"}
)

func checkFilters(s v1.HookSpec) error {
	for field, list := range map[string][]string{"types": s.Types, "severities": s.Severities, "scopes": s.Scopes} {
		if len(list) > maxList {
			return v1.BadField(field, "%d entries, allowed are at most %d", len(list), maxList)
		}
	}
	for _, t := range s.Types {
		if !typePattern.MatchString(t) {
			return v1.BadField("types", "%q, allowed is a type of event such as host.state, or host.* for all that begin so", t)
		}
	}
	for _, x := range s.Severities {
		if !slices.Contains(severities, x) {
			return v1.BadField("severities", "%q, allowed are %s", x, strings.Join(severities, ", "))
		}
	}
	for _, x := range s.Scopes {
		if !scopePattern.MatchString(x) || len(x) > 256 {
			return v1.BadField("scopes", "%q, allowed are global, zone/Z, pod/Z/P, cluster/Z/P/C and host/H", x)
		}
	}
	return nil
}

// Wants reports whether the hook is told of an event.
func (c Config) Wants(x v1.Event) bool {
	return anyOf(c.Types, func(t string) bool {
		head, all := strings.CutSuffix(t, "*")
		return all && strings.HasPrefix(x.Type, head) || t == x.Type
	}) && anyOf(c.Severities, func(s string) bool { return s == x.Severity }) && anyOf(c.Scopes, func(s string) bool { return within(x, s) })
}

// anyOf is true of an empty list: it selects everything.
func anyOf(list []string, is func(string) bool) bool {
	return len(list) == 0 || slices.ContainsFunc(list, is)
}

func within(x v1.Event, scope string) bool {
	kind, name, _ := strings.Cut(scope, "/")
	switch kind {
	case "global":
		return true
	case "host":
		return x.Host == name
	}
	return x.Partition == name || strings.HasPrefix(x.Partition, name+"/")
}

// ParseURL checks the URL of a webhook and returns what may be shown of it: scheme, host
// and port. The error repeats nothing of it but these: paths and queries hold tokens.
func ParseURL(text string) (origin string, err error) {
	u, perr := url.Parse(text)
	if perr != nil || len(text) > maxURL || u.Opaque != "" || u.Hostname() == "" {
		return "", v1.BadField("url", "cannot be read as one, allowed is https://host[:port]/path of at most %d bytes", maxURL)
	}
	origin = u.Scheme + "://" + u.Host
	switch {
	case u.User != nil:
		return "", v1.BadField("url", "%s: has a user, allowed are none", origin)
	case u.Fragment != "":
		return "", v1.BadField("url", "%s: has a fragment, allowed is none", origin)
	case u.Scheme == "https", u.Scheme == "http" && loopback(u.Hostname()):
		return origin, nil
	}
	return "", v1.BadField("url", "%s, allowed is https, and http to this machine (127.0.0.1, [::1], localhost)", origin)
}

func loopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

// ParseKey decodes a signing key: whsec_<base64>, as Standard Webhooks libraries make them,
// or the bytes as they are. The caller clears it; the error repeats nothing of it.
func ParseKey(text []byte) ([]byte, error) {
	key := bytes.Clone(text)
	if rest, ok := bytes.CutPrefix(text, []byte("whsec_")); ok {
		key = make([]byte, base64.StdEncoding.DecodedLen(len(rest)))
		n, err := base64.StdEncoding.Strict().Decode(key, rest)
		if err != nil {
			clear(key)
			return nil, v1.BadField("key", "what follows whsec_ is not base64")
		}
		key = key[:n]
	}
	if n := len(key); n < minKey || n > maxKey {
		clear(key)
		return nil, v1.BadField("key", "%d bytes, allowed are %d to %d", n, minKey, maxKey)
	}
	return key, nil
}

// String shows what may be shown.
func (c Config) String() string { return fmt.Sprintf("%s %s", c.Kind, c.Target) }
