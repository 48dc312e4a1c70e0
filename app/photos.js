// The square of a photo: drag it on the photo, or move three sliders. Squares and captions live in the page until a
// training starts or the photos change; `vectorfitPhotos` then hands them over.
window.vectorfitPhotos = () => [...document.querySelectorAll('#photos .photo')].map((card) => ({
  caption: card.querySelector('.caption')?.value ?? '',
  crop: card.dataset.crop ? JSON.parse(card.dataset.crop) : null,
}));
(() => {
  const HTML = '<h3></h3><div class="stage"><img alt=""><div class="square"></div></div>' +
    '<label>From the left <input type="range" name="x" min="0" max="1" step="0.01"></label>' +
    '<label>From the top <input type="range" name="y" min="0" max="1" step="0.01"></label>' +
    '<label>Size <input type="range" name="side" min="0.2" max="1" step="0.01"></label>' +
    '<p><button type="button" name="done">Use this square</button> <button type="button" name="whole">Whole photo</button> ' +
    '<button type="button" name="cancel">Cancel</button></p>';
  let card = null;
  const box = () => {
    let found = document.getElementById('crop');
    if (!found) {
      found = document.createElement('dialog'); found.id = 'crop'; found.innerHTML = HTML;
      found.setAttribute('aria-label', 'The square of a photo that is trained on');
      found.addEventListener('input', place);
      found.addEventListener('click', press);
      found.querySelector('.stage').addEventListener('pointermove', drag);
      found.querySelector('.stage').addEventListener('pointerdown', drag);
      document.body.append(found);
    }
    return found;
  };
  const input = (name) => box().querySelector(`[name=${name}]`);
  const value = (name) => Number(input(name).value);
  const photo = () => box().querySelector('img');
  // x and y are parts of the room that the square has; the stored square counts from the photo's edges.
  const square = () => {
    const {naturalWidth: w, naturalHeight: h} = photo(), side = value('side') * Math.min(w, h);
    return {left: value('x') * (w - side), top: value('y') * (h - side), side, w, h};
  };
  const place = () => {
    const {left, top, side, w, h} = square(), style = box().querySelector('.square').style;
    style.left = 100 * left / w + '%'; style.top = 100 * top / h + '%';
    style.width = 100 * side / w + '%'; style.height = 100 * side / h + '%';
  };
  const drag = (event) => {
    if (!(event.buttons & 1)) return;
    event.preventDefault();
    const area = photo().getBoundingClientRect(), {side, w, h} = square(), scale = w / area.width;
    const part = (at, room) => room > 0 ? Math.min(1, Math.max(0, at / room)) : 0;
    input('x').value = part((event.clientX - area.left) * scale - side / 2, w - side);
    input('y').value = part((event.clientY - area.top) * scale - side / 2, h - side);
    place();
  };
  const show = (left, top, side) => {
    const shown = card.querySelector('img'), canvas = document.createElement('canvas');
    canvas.width = canvas.height = 240;
    canvas.getContext('2d').drawImage(photo(), left, top, side, side, 0, 0, 240, 240);
    shown.src = canvas.toDataURL('image/jpeg', .85);
  };
  const press = (event) => {
    const name = event.target.name, {left, top, side, w, h} = square();
    if (name === 'done') {
      card.dataset.crop = JSON.stringify([left / w, top / h, side / Math.min(w, h)]);
      show(left, top, side);
    }
    if (name === 'whole') {
      delete card.dataset.crop;
      const short = Math.min(w, h); show((w - short) / 2, (h - short) / 2, short);
    }
    if (['done', 'whole', 'cancel'].includes(name)) { box().close(); card.querySelector('[data-cut]').focus(); }
  };
  const open = (button) => {
    card = button.closest('.photo');
    photo().onload = () => {
      const [left, top, side] = card.dataset.crop ? JSON.parse(card.dataset.crop) : [null, null, 1];
      const {naturalWidth: w, naturalHeight: h} = photo();
      photo().style.width = w * Math.min(Math.min(innerWidth * .8, 500) / w, innerHeight * .5 / h) + 'px';
      const edge = side * Math.min(w, h);
      input('side').value = side;
      input('x').value = left === null ? .5 : w > edge ? left * w / (w - edge) : 0;
      input('y').value = top === null ? .5 : h > edge ? top * h / (h - edge) : 0;
      place();
    };
    photo().src = card.dataset.whole; photo().alt = card.dataset.name;
    box().querySelector('h3').textContent = card.dataset.name;
    box().showModal(); input('side').focus();
  };
  // The page compares attributes when the cards change, so a caption must stand in one.
  document.addEventListener('input', ({target}) => { if (target.matches('.caption')) target.setAttribute('value', target.value); });
  document.addEventListener('click', (event) => {
    const button = event.target.closest('[data-cut]');
    if (button) open(button);
  });
})();
