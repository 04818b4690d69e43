// SPDX-License-Identifier: Apache-2.0

package apitest

import (
	"context"
	"sync"
	"time"

	"github.com/holdfast-ha/holdfast/agent/trust"
	"github.com/holdfast-ha/holdfast/worker/api"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// Keeper is an api.Keeper. Tokens are those that Give has made; all else is one of each.
type Keeper struct {
	mu     sync.Mutex
	tokens map[string]api.Caller // by the token as it is written
}

var _ api.Keeper = (*Keeper)(nil)

// Give makes a bearer token with a role.
func (k *Keeper) Give(name string, role v1.Role) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	t := trust.NewToken()
	if k.tokens == nil {
		k.tokens = map[string]api.Caller{}
	}
	k.tokens[t.Bearer()] = api.Caller{Name: "token/" + name, Role: role, By: "token", Token: t.ID}
	return t.Bearer()
}

// Take ends it.
func (k *Keeper) Take(token string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.tokens, token)
}

// Bearer implements api.Keeper.
func (k *Keeper) Bearer(t trust.Token, _ time.Time) (api.Caller, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	c, ok := k.tokens[t.Bearer()]
	return c, ok
}

func known(id string) error {
	if id != "t1" {
		return missing("token", id)
	}
	return nil
}

// Tokens implements api.Keeper.
func (k *Keeper) Tokens(context.Context) ([]v1.Token, error) { return []v1.Token{{ID: "t1"}}, nil }

// CreateToken implements api.Keeper.
func (k *Keeper) CreateToken(_ context.Context, who string, r v1.TokenRequest) (v1.Token, error) {
	return v1.Token{ID: "t2", Name: r.Name, Role: r.Role, By: who}, nil
}

// RevokeToken implements api.Keeper.
func (k *Keeper) RevokeToken(_ context.Context, _, id, _ string) error { return known(id) }

// JoinTokens implements api.Keeper.
func (k *Keeper) JoinTokens(context.Context) ([]v1.JoinToken, error) {
	return []v1.JoinToken{{ID: "t1"}}, nil
}

// CreateJoinToken implements api.Keeper.
func (k *Keeper) CreateJoinToken(_ context.Context, who string, r v1.JoinTokenRequest) (v1.JoinToken, error) {
	return v1.JoinToken{ID: "t2", Host: r.Host, By: who}, nil
}

// RevokeJoinToken implements api.Keeper.
func (k *Keeper) RevokeJoinToken(_ context.Context, _, id, _ string) error { return known(id) }

// Authorities implements api.Keeper.
func (k *Keeper) Authorities(context.Context) ([]v1.Authority, error) {
	return []v1.Authority{{ID: "t1"}}, nil
}

// CreateAuthority implements api.Keeper.
func (k *Keeper) CreateAuthority(_ context.Context, who string, _ v1.AuthorityRequest) (v1.Authority, error) {
	return v1.Authority{ID: "t2", By: who}, nil
}

// RetireAuthority implements api.Keeper.
func (k *Keeper) RetireAuthority(_ context.Context, _, id, _ string, _ bool) error { return known(id) }

// Certificates implements api.Keeper.
func (k *Keeper) Certificates(_ context.Context, host string) ([]v1.Certificate, error) {
	return []v1.Certificate{{Serial: "1f", Identity: "host/" + host}}, nil
}

// Revoke implements api.Keeper.
func (k *Keeper) Revoke(_ context.Context, who string, r v1.RevokeRequest) (out []v1.Certificate, err error) {
	for _, s := range r.Serials {
		out = append(out, v1.Certificate{Serial: s, RevokedBy: who})
	}
	return out, nil
}

// Audits implements api.Keeper.
func (k *Keeper) Audits(_ context.Context, host string) ([]v1.Audit, error) {
	return []v1.Audit{{ID: "a1", Host: host}}, nil
}
