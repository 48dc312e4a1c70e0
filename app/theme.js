// Full size, copied links, Ctrl+Enter.
(() => {
  const dialog = () => {
    let found = document.getElementById('full');
    if (!found) {
      found = document.createElement('dialog'); found.id = 'full';
      found.innerHTML = '<img alt=""><p></p><p><button data-step="-1" aria-label="previous">←</button>' +
        '<a download>Download</a><button data-close>Close</button><button data-step="1" aria-label="next">→</button></p>';
      document.body.append(found);
    }
    return found;
  };
  let shown = null;
  const show = (button) => {
    const box = dialog(), image = box.querySelector('img');
    shown = button;
    image.onload = () => {
      // Small pictures grow by a whole factor with hard edges; large ones are shown as they are.
      const room = Math.min(innerWidth * .94 / image.naturalWidth, innerHeight * .84 / image.naturalHeight);
      const factor = room >= 2 ? Math.floor(room) : Math.min(1, room);
      image.style.width = image.naturalWidth * factor + 'px';
      image.style.imageRendering = factor > 1 ? 'pixelated' : 'auto';
    };
    image.src = button.dataset.full; image.alt = button.dataset.caption;
    box.querySelector('p').textContent = button.dataset.caption;
    box.querySelector('a').href = button.dataset.full;
    if (!box.open) box.showModal();
  };
  const step = (by) => {
    const all = [...document.querySelectorAll('[data-full]')].filter((one) => one.offsetParent);
    const next = all[all.indexOf(shown) + by];
    if (next) show(next);
  };
  document.addEventListener('click', (event) => {
    const target = event.target, full = target.closest('[data-full]'), copy = target.closest('[data-copy]');
    if (full) show(full);
    else if (target.closest('[data-step]')) step(Number(target.dataset.step));
    else if (target.closest('[data-close]') || target.id === 'full') dialog().close();
    else if (target.closest('#generate') && innerWidth <= 900) {
      setTimeout(() => document.querySelector('#seen')?.scrollIntoView({behavior: 'smooth'}), 200);
    } else if (copy) {
      const link = location.origin + location.pathname + copy.dataset.copy;
      const told = () => { copy.textContent = 'Link copied'; setTimeout(() => { copy.textContent = 'Copy link'; }, 2000); };
      if (navigator.clipboard) navigator.clipboard.writeText(link).then(told); else { prompt('Link', link); told(); }
    }
  });
  document.addEventListener('keydown', (event) => {
    if (document.getElementById('full')?.open) {
      if (event.key === 'ArrowLeft') step(-1);
      if (event.key === 'ArrowRight') step(1);
    } else if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) {
      const button = document.querySelector('#generate');
      if (button?.offsetParent && !button.disabled) { event.preventDefault(); button.click(); }
    }
  });
})();
