// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/holdfast-ha/holdfast/leases"
)

// Options are a worker's bootstrap configuration. What may change while it runs is a
// setting in etcd instead.
type Options struct {
	ID     string // stable name, e.g. the pod's; one live worker per id
	Zone   string
	Weight int // share of slots relative to others, default 1

	Etcd    []string
	EtcdTLS *tls.Config

	ListenAPI, ListenAgents       string // host:port; port 0 takes a free one
	AdvertiseAPI, AdvertiseAgents string // default: the listening address

	LeaseTTL   time.Duration // 2s to 60s, default 5s
	SecretsDir string        // directory that `file:` references may point into
	Version    string
	Logger     *slog.Logger
}

// ErrOptions marks options that cannot be used; no restart will mend that.
var ErrOptions = errors.New("bad options")

const defaultTTL = 5 * time.Second

// withDefaults fills what was left empty and names every wrong field.
func (o Options) withDefaults() (Options, error) {
	if o.Weight == 0 {
		o.Weight = 1
	}
	if o.LeaseTTL == 0 {
		o.LeaseTTL = defaultTTL
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Version == "" {
		o.Version = "devel"
	}
	var errs []error
	if err := leases.CheckID("id", o.ID); err != nil {
		errs = append(errs, err)
	}
	if o.Zone != "" {
		if err := leases.CheckID("zone", o.Zone); err != nil {
			errs = append(errs, err)
		}
	}
	if len(o.Etcd) == 0 {
		errs = append(errs, errors.New("etcd: empty, at least one endpoint is needed"))
	}
	if o.Weight < 1 || o.Weight > 100 {
		errs = append(errs, fmt.Errorf("weight: %d, allowed are 1 to 100", o.Weight))
	}
	if o.LeaseTTL < 2*time.Second || o.LeaseTTL > time.Minute || o.LeaseTTL%time.Second != 0 {
		errs = append(errs, fmt.Errorf("leaseTTL: %v, allowed are whole seconds from 2s to 1m", o.LeaseTTL))
	}
	if len(errs) > 0 {
		return o, fmt.Errorf("%w: %w", ErrOptions, errors.Join(errs...))
	}
	return o, nil
}
