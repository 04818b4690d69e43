// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/holdfast-ha/holdfast/agent/trust"
)

// certFlag is one certificate file of a fleet: flag, variable, and place in a context.
type certFlag struct {
	name, variable, usage string
	flag                  *string
	at                    func(*contextEntry) *string
}

func (e *env) certFlags() []certFlag {
	return []certFlag{
		{"cacert", "HOLDFAST_CACERT", "file with the authorities of the workers' certificates", &e.cacert, func(c *contextEntry) *string { return &c.CACert }},
		{"cert", "HOLDFAST_CERT", "file with your own certificate (holdfast://operator/NAME)", &e.cert, func(c *contextEntry) *string { return &c.Cert }},
		{"key", "HOLDFAST_KEY", "file with its key", &e.key, func(c *contextEntry) *string { return &c.Key }},
	}
}

func (e *env) registerCertFlags(f *pflag.FlagSet) {
	for _, c := range e.certFlags() {
		f.StringVar(c.flag, c.name, "", c.usage)
	}
}

// tokenVariable holds a bearer token; there is no flag for it, for everybody sees those.
const tokenVariable = "HOLDFAST_TOKEN"

// transport makes full URLs of the endpoints of a fleet, and what carries requests there.
// Plaintext goes to this machine only; everybody else must be a worker by certificate.
func (e *env) transport(c contextEntry) (endpoints []string, _ http.RoundTripper, err error) {
	files := trust.Files{CA: c.CACert, Cert: c.Cert, Key: c.Key}
	secure := false
	for _, s := range c.Endpoints {
		if !strings.Contains(s, "://") {
			scheme := "https://"
			if files.None() {
				scheme = "http://"
			}
			s = scheme + s
		}
		endpoints = append(endpoints, s)
		u, err := url.Parse(s)
		switch {
		case err != nil: // the client says what is wrong
		case u.Scheme == "https":
			secure = true
		case u.Scheme == "http" && u.Host != "" && !trust.Loopback(u.Hostname()):
			return nil, nil, &hintError{usage(fmt.Errorf("endpoint %q: plaintext, which is for this machine only", s)), "https:// with --cacert, --cert and --key, or a context that has all of it"}
		}
	}
	dial := (&net.Dialer{Timeout: 3 * time.Second}).DialContext
	t := &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute}
	if !secure {
		return endpoints, t, nil
	}
	if files.None() {
		return nil, nil, &hintError{usage(errors.New("no certificate: workers want to know who asks")), "--cacert, --cert and --key, HOLDFAST_CACERT, HOLDFAST_CERT and HOLDFAST_KEY, or --context with one that has them; with a token in HOLDFAST_TOKEN --cacert alone"}
	}
	fields := trust.Files{CA: "cacert", Cert: "cert", Key: "key"}
	var src *trust.Source
	if e.Getenv(tokenVariable) != "" && files.Cert == "" && files.Key == "" {
		src, err = trust.OpenCA(files.CA, fields.CA, e.Now)
	} else {
		src, err = trust.Open(trust.Config{Files: files, Fields: fields, Want: trust.Identity{Role: trust.Operator}, Now: e.Now})
	}
	if err != nil {
		return nil, nil, usage(err)
	}
	t.DialTLSContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		return src.Dial(ctx, dial, network, address, trust.Peer{Role: trust.Worker, Name: host})
	}
	return endpoints, t, nil
}
