// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-ha/holdfast/agent/trust"
	"github.com/holdfast-ha/holdfast/cmd/holdfast/print"
	"github.com/holdfast-ha/holdfast/worker/pki"
)

// newPKICmd is `holdfast pki`: certificates for a lab.
func newPKICmd(e *env) *cobra.Command {
	return group("pki", "Make the certificates of a lab",
		"Makes an authority in a directory and certificates for workers, hosts, operators and etcd members. Where cert-manager, Vault or another authority is at hand, let it issue the same identities instead: docs/pki.md.",
		`  # an authority, and one certificate of each kind
  holdfast pki init --dir pki
  holdfast pki issue worker w1 --dir pki --dns w1.example --ip 10.0.0.1
  holdfast pki issue host h-17 --dir pki
  holdfast pki issue operator ann --dir pki
  holdfast pki issue etcd etcd-1 --dir pki --dns etcd-1.example

  # what is in a file
  holdfast pki show pki/worker-w1.crt`, newPKIInitCmd(e), newPKIIssueCmd(e), newPKIShowCmd(e))
}

func newPKIInitCmd(e *env) *cobra.Command {
	var o pki.Options
	c := &cobra.Command{
		Use: "init --dir DIR", Short: "Make a new authority", Args: cobra.NoArgs,
		Long:    "Makes an authority, ca.crt and ca.key, in a directory. The key signs everybody who is trusted: keep it away from workers and hosts, which need ca.crt alone.",
		Example: "  holdfast pki init --dir pki\n  holdfast pki init --dir pki --for 26280h\n  holdfast pki init --dir pki --force   # certificates of the old authority are worth nothing then",
		RunE: func(*cobra.Command, []string) error {
			o.Now = e.Now()
			p, err := pki.Init(o)
			return e.issued("make authority", p, err)
		},
	}
	pkiFlags(c, &o, pki.CALife)
	return c
}

func newPKIIssueCmd(e *env) *cobra.Command {
	var o pki.Options
	c := &cobra.Command{
		Use: "issue worker|host|operator|etcd NAME --dir DIR", Short: "Issue a certificate", Args: cobra.ExactArgs(2),
		Long: "Issues a certificate with its key, signed by the authority in the directory. NAME is the id of the worker or host, or the name that goes into the audit log. " +
			"Workers and etcd members are reached at NAME, localhost and the loopback addresses, and at what --dns and --ip add.",
		Example: "  holdfast pki issue worker w1 --dir pki --dns w1.example --ip 10.0.0.1\n  holdfast pki issue host h-17 --dir pki --for 24h\n  holdfast pki issue operator ann --dir pki --force   # renew: running programs take the new files by themselves",
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			var kinds []string
			for _, k := range pki.Kinds {
				kinds = append(kinds, string(k))
			}
			return kinds, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			o.Now = e.Now()
			p, err := pki.Issue(pki.Kind(args[0]), args[1], o)
			return e.issued(fmt.Sprintf("issue %s %s", args[0], args[1]), p, err)
		},
	}
	pkiFlags(c, &o, pki.LeafLife)
	c.Flags().StringVar(&o.Role, "role", "", "what an operator may do: viewer, operator or admin (default admin)")
	c.Flags().StringSliceVar(&o.DNS, "dns", nil, "further host names it is reached at")
	c.Flags().StringSliceVar(&o.IP, "ip", nil, "further addresses it is reached at")
	return c
}

func pkiFlags(c *cobra.Command, o *pki.Options, life time.Duration) {
	c.Flags().StringVar(&o.Dir, "dir", "", "directory of the authority")
	c.Flags().DurationVar(&o.For, "for", life, "how long it is valid")
	c.Flags().BoolVar(&o.Force, "force", false, "write over what is there")
	_ = c.MarkFlagRequired("dir") // the flag exists: above
	_ = c.MarkFlagDirname("dir")
}

// issued says what was written, or why nothing was.
func (e *env) issued(what string, p pki.Pair, err error) error {
	var bad pki.OptionError
	switch {
	case errors.As(err, &bad):
		return usage(fmt.Errorf("%s: %w", what, err))
	case errors.Is(err, fs.ErrExist):
		return &exitError{fmt.Errorf("%s: %w", what, err), exitConflict}
	case errors.Is(err, fs.ErrNotExist):
		return &exitError{fmt.Errorf("%s: %w", what, err), exitNotFound}
	case err != nil:
		return fmt.Errorf("%s: %w", what, err)
	}
	_, err = fmt.Fprintf(e.Stdout, "%s and %s, valid until %s\n", p.Cert, filepath.Base(p.Key), p.NotAfter.UTC().Format(time.RFC3339))
	return err
}

// shownCert is one certificate of a file in words.
type shownCert struct {
	Identity    string    `json:"identity,omitempty"` // as in the audit log: operator/ann
	CommonName  string    `json:"commonName"`
	Authority   bool      `json:"authority"`
	Issuer      string    `json:"issuer"`
	NotBefore   time.Time `json:"notBefore"`
	NotAfter    time.Time `json:"notAfter"`
	Valid       string    `json:"valid"` // now: yes, expired, not yet
	For         []string  `json:"for,omitempty"`
	Names       []string  `json:"names,omitempty"`
	Serial      string    `json:"serial"`
	Fingerprint string    `json:"sha256"`
}

func newPKIShowCmd(e *env) *cobra.Command {
	var out outputFlags
	c := &cobra.Command{
		Use: "show FILE", Short: "Show the certificates of a file", Args: cobra.ExactArgs(1),
		Long:    "Shows whose certificates a PEM file holds and until when they are good. Keys in it are passed over; nobody is asked.",
		Example: "  holdfast pki show pki/worker-w1.crt\n  holdfast pki show /etc/holdfast/tls.crt -o json\n  holdfast pki show pki/ca.crt",
		RunE: func(_ *cobra.Command, args []string) error {
			o, err := out.options(e)
			if err != nil {
				return err
			}
			all, err := pki.Read(args[0])
			if errors.Is(err, fs.ErrNotExist) {
				return &exitError{fmt.Errorf("show certificate: %w", err), exitNotFound}
			} else if err != nil {
				return fmt.Errorf("show certificate %s: %w", args[0], err)
			}
			var shown []shownCert
			for _, c := range all {
				shown = append(shown, showCert(c, e.Now()))
			}
			return e.show(o, shown, func(t *text) {
				for i, s := range shown {
					if i > 0 {
						t.printf("\n")
					}
					t.field("Identity", s.Identity)
					t.field("Common name", s.CommonName)
					t.field("Authority", yesNo(s.Authority))
					t.field("Signed by", s.Issuer)
					t.field("Valid", fmt.Sprintf("%s, %s to %s", s.Valid, print.Exact(s.NotBefore), print.Exact(s.NotAfter)))
					t.field("For", strings.Join(s.For, ", "))
					t.field("Reached at", strings.Join(s.Names, ", "))
					t.field("Serial", s.Serial)
					t.field("SHA-256", s.Fingerprint)
				}
			})
		},
	}
	out.registerFormat(c)
	return c
}

func showCert(c *x509.Certificate, now time.Time) shownCert {
	s := shownCert{
		CommonName: c.Subject.CommonName, Authority: c.IsCA, Issuer: c.Issuer.CommonName,
		NotBefore: c.NotBefore.UTC(), NotAfter: c.NotAfter.UTC(), Valid: "yes",
		Names: c.DNSNames, Serial: fmt.Sprintf("%x", c.SerialNumber), Fingerprint: pki.Fingerprint(c),
	}
	if id, err := trust.Of(c); err == nil {
		s.Identity = id.String()
	}
	switch {
	case now.After(c.NotAfter):
		s.Valid = "expired"
	case now.Before(c.NotBefore):
		s.Valid = "not yet"
	}
	for _, ip := range c.IPAddresses {
		s.Names = append(s.Names, ip.String())
	}
	for _, u := range c.ExtKeyUsage {
		switch u {
		case x509.ExtKeyUsageClientAuth:
			s.For = append(s.For, "client")
		case x509.ExtKeyUsageServerAuth:
			s.For = append(s.For, "server")
		}
	}
	return s
}
